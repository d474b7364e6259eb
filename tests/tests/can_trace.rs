//! Can this kernel be traced here? If this test fails, all others fail for the same reason.

use tests::{TracerCommand, feature, tracer::without_features};

#[test]
fn this_kernel_can_be_traced() {
    let finished = TracerCommand::new(&["--stuck", "1h", "--duration", "1ms", "--json"]).run();
    assert_eq!(
        finished.status.code(),
        Some(0),
        "\n\nTHIS KERNEL CANNOT BE TRACED HERE; no other kernel test can pass. The tracer says:\n{}\n",
        finished.stderr
    );
    let start = &finished.records[0];
    assert!(start.is("start"), "the first record is {start:?}");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("/proc is mounted");
    assert_eq!(start.text("boot_id"), boot_id.trim_end());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    assert_eq!(start.text("kernel"), kernel.trim_end());
    // Every kernel here has these; without BTF none of the rest can be.
    let is_turned_off = without_features().is_some_and(|features| features.contains("btf"));
    for needed in [feature::TP_BTF, "iter/tcp"] {
        assert_eq!(start.get("sources")[needed]["in_use"], !is_turned_off, "{needed}: {start:?}");
    }
    finished.summary();
}
