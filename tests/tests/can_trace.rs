//! First of all: can this kernel be traced here? If this fails, all others will, for the same reason.

use tests::TracerCommand;

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
    for needed in ["tp_btf/inet_sock_set_state", "iter/tcp"] {
        assert_eq!(start.get("sources")[needed]["in_use"], true, "{needed}: {start:?}");
    }
    finished.summary();
}
