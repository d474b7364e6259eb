//! Tests of `offsets.rs` and `attach_targets.rs` with hand-made BTF: complete, broken and
//! malicious.

use proptest::prelude::*;

use crate::host::bpf::{
    attach_targets,
    btf::{STRUCT, TYPEDEF, blob::Blob},
    offsets,
};

const KIND_INT: u32 = 1;

/// Encodes every field that `offsets.rs` looks for, in nested structs as in the kernel.
fn whole() -> Blob {
    let mut blob = Blob::default();
    let int = blob.add("int", KIND_INT, 4, &[32]);
    let fields = |blob: &mut Blob, name: &str, names: &[&str]| {
        let members: Vec<_> = (0..).step_by(32).zip(names).map(|(bits, name)| (*name, int, bits)).collect();
        blob.add_composite(name, &members)
    };
    let common = fields(
        &mut blob,
        "sock_common",
        &[
            "skc_family",
            "skc_state",
            "skc_dport",
            "skc_daddr",
            "skc_rcv_saddr",
            "skc_num",
            "skc_tw_rcv_nxt",
            "skc_tw_snd_nxt",
        ],
    );
    let common = blob.add("common_t", TYPEDEF, common, &[]);
    let lock = fields(&mut blob, "", &["slock", "owned"]);
    let lock = blob.add("socket_lock_t", TYPEDEF, lock, &[]);
    blob.add_composite(
        "sock",
        &[
            ("__sk_common", common, 0),
            ("sk_err", int, 320),
            ("sk_socket", int, 384),
            ("sk_ack_backlog", int, 448),
            ("sk_max_ack_backlog", int, 480),
            ("sk_lock", lock, 512),
        ],
    );
    let namespace = fields(&mut blob, "", &["inum"]);
    blob.add_composite("net", &[("ns", namespace, 0)]);
    fields(&mut blob, "socket", &["sk", "file"]);
    fields(&mut blob, "file", &["f_inode"]);
    fields(&mut blob, "inode", &["i_ino"]);
    let inet = fields(&mut blob, "inet_sock", &["inet_sport"]);
    let ack = fields(&mut blob, "", &["lrcvtime"]);
    let connection =
        blob.add_composite("inet_connection_sock", &[("icsk_inet", inet, 0), ("icsk_ack", ack, 64)]);
    // As with `struct_group`, the fields are in a struct without a name.
    let group =
        fields(&mut blob, "", &["rcv_tstamp", "rcv_nxt", "copied_seq", "write_seq", "snd_una", "snd_nxt"]);
    blob.add_composite("tcp_sock", &[("inet_conn", connection, 0), ("", group, 512)]);
    fields(
        &mut blob,
        "task_struct",
        &["tgid", "pid", "group_leader", "comm", "flags", "start_boottime", "real_cred"],
    );
    fields(&mut blob, "cred", &["uid"]);
    fields(&mut blob, "inet_timewait_sock", &["tw_substate"]);
    blob.add("btf_trace_inet_sock_set_state", TYPEDEF, int, &[]);
    blob
}

/// Does all that a start does with the kernel's BTF.
fn read(raw: &[u8]) -> Result<tcptrace_common::KernelLayout, String> {
    let kernel = offsets::parse_btf(raw).map_err(|error| format!("{error:#}"))?;
    let found = offsets::find_offsets(&kernel).map_err(|error| error.to_string());
    attach_targets::stub_btf(&attach_targets::find_targets(&kernel, true))
        .map_err(|error| error.to_string())?;
    found
}

#[test]
fn whole_type_information_gives_the_layout() {
    let layout = read(&whole().bytes()).expect("complete");
    assert_eq!((layout.err, layout.socket, layout.remote_v4), (40, 48, 12));
    assert_eq!(layout.copied_seq, 64 + 8, "in the struct without a name");
    assert_eq!(layout.owned, 64 + 4, "in the typedef of a struct without a name");
}

#[test]
fn type_information_that_is_cut_off_is_an_error_that_says_so() {
    let whole = whole().bytes();
    for length in 0..whole.len() {
        let error = read(&whole[..length]).expect_err("not all there");
        assert!(error.contains("cut off"), "{length}: {error}");
    }
}

#[test]
fn circular_types_end_the_search() {
    // A typedef of itself.
    let mut blob = Blob::default();
    let itself = blob.add("loop_t", TYPEDEF, 1, &[]);
    blob.add_composite("sock", &[("__sk_common", itself, 0)]);
    assert!(read(&blob.bytes()).expect_err("no common").contains("skc_family"));

    // A struct without a name that contains itself many times.
    let mut blob = Blob::default();
    blob.add_composite("", &[("", 1, 0); 200]);
    blob.add_composite("sock", &[("", 1, 0), ("", 1, 0)]);
    assert!(read(&blob.bytes()).expect_err("no common").contains("skc_family"));

    // The sum of the offsets overflows.
    let mut blob = Blob::default();
    let int = blob.add("int", KIND_INT, 4, &[32]);
    let inner = blob.add_composite("", &[("skc_family", int, u32::MAX - 7)]);
    blob.add_composite("sock", &[("__sk_common", inner, u32::MAX - 7)]);
    assert!(read(&blob.bytes()).expect_err("nowhere").contains("skc_family"));
}

proptest! {
    #[test]
    fn any_bytes_give_an_error(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&raw).is_err());
        // Now behind a valid header.
        let mut blob = Blob::default();
        blob.add_string("sock");
        blob.types = raw.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        prop_assert!(read(&blob.bytes()).is_err());
    }

    #[test]
    fn any_broken_words_are_a_layout_or_an_error(
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), word()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut raw = whole().bytes();
        for (at, word) in wrong {
            let at = at.index(raw.len() / 4) * 4;
            raw[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        if let Some(cut) = cut {
            raw.truncate(cut.index(raw.len()));
        }
        let _a_layout_or_an_error = read(&raw);
    }
}

/// Generates likely ids, lengths, offsets and kinds with many members, and any other number.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        0_u32..60,
        (0_u32..24, 0_u32..5).prop_map(|(kind, members)| kind << 24 | members),
        any::<u16>().prop_map(|members| STRUCT << 24 | u32::from(members)),
        any::<u32>(),
        Just(u32::MAX),
    ]
}
