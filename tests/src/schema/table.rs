//! The contract's records as a table: which fields each has, and what they hold.

/// How many owners a list names at most.
pub const LISTED: usize = 16;

/// Bytes that a string has at most.
pub const TEXT_BYTES: usize = 512;

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Integer,
    Number,
    NumberOrNull,
    /// One that may be below 0.
    Change,
    ChangeOrNull,
    Flag,
    Text,
    TextOrNull,
    IntegerOrNull,
    Address,
    Port,
    Time,
    TimeOrNull,
    State,
    OneOf(&'static [&'static str]),
    OneOfOrNull(&'static [&'static str]),
    Owner,
    OwnerOrNull,
    Owners,
    OriginOrNull,
    ListenerOrNull,
    PeerOrNull,
    Sources,
    /// Milliseconds by state.
    Spent,
}

#[allow(clippy::enum_glob_use, reason = "a table of them")]
use Kind::*;

pub(super) const ENDINGS: &[&str] =
    &["closed", "exited", "reset", "timed_out", "destroyed", "peer", "unknown"];

pub(super) type Fields = &'static [(&'static str, Kind)];

pub(super) const EVERY_RECORD: Fields =
    &[("v", Integer), ("event", Text), ("time", Time), ("mono_ns", Integer)];

pub(super) const OF_A_SOCKET: Fields = &[
    ("cookie", Integer),
    ("netns", IntegerOrNull),
    ("family", OneOf(&["ipv4", "ipv6"])),
    ("local_addr", Address),
    ("local_port", Port),
    ("remote_addr", Address),
    ("remote_port", Port),
];

/// What a record about a socket has besides if one of its addresses is link-local.
pub(super) const OF_A_LINK: Fields = &[("interface", Integer)];

pub(super) const OWNER_HOW: Kind = OneOf(&["fd", "listener", "origin", "close", "none"]);

/// A socket in a state, and why it is still there.
pub(super) const IN_A_STATE: Fields = &[
    ("state", State),
    ("age_ms", Number),
    ("age_max_ms", NumberOrNull),
    ("exact", Flag),
    ("since", Time),
    ("recv_queue", Integer),
    ("send_queue", Integer),
    (
        "cause",
        OneOf(&["not_accepted", "data_unread", "eof_unread", "sending", "not_closed", "peer", "unknown"]),
    ),
    ("owners", Owners),
    ("owners_total", Integer),
    ("owner_how", OWNER_HOW),
    ("origin", OriginOrNull),
    ("listener", ListenerOrNull),
    ("peer", PeerOrNull),
];

/// (event, the fields it shares with others: none if it is about no socket; its own)
pub(super) const EVENTS: [(&str, &[Fields], Fields); 10] = [
    (
        "start",
        &[],
        &[
            ("version", Text),
            ("kernel", Text),
            ("host", Text),
            ("boot_id", Text),
            ("sockets", Integer),
            ("sources", Sources),
        ],
    ),
    (
        "transition",
        &[OF_A_SOCKET],
        &[
            ("old_state", State),
            ("new_state", State),
            ("stand_in", Flag),
            ("in_old_state_ms", NumberOrNull),
            ("owner", OwnerOrNull),
            ("owner_how", OWNER_HOW),
            ("how", OneOfOrNull(ENDINGS)),
        ],
    ),
    ("stuck", &[OF_A_SOCKET, IN_A_STATE], &[("threshold_ms", Number)]),
    ("found", &[OF_A_SOCKET, IN_A_STATE], &[]),
    (
        "cleared",
        &[OF_A_SOCKET],
        &[
            ("state", State),
            ("new_state", State),
            ("in_state_ms", Number),
            ("by", OwnerOrNull),
            ("how", OneOf(ENDINGS)),
        ],
    ),
    (
        "life",
        &[OF_A_SOCKET],
        &[
            ("opened", TimeOrNull),
            ("duration_ms", NumberOrNull),
            ("role", OneOf(&["client", "server", "unknown"])),
            ("states", Spent),
            (
                "close_reason",
                OneOf(&[
                    "local_close",
                    "peer_close",
                    "reset_received",
                    "reset_sent",
                    "timeout",
                    "refused",
                    "exit",
                    "destroyed",
                    "unknown",
                ]),
            ),
            ("error", TextOrNull),
            ("bytes_sent", IntegerOrNull),
            ("bytes_received", IntegerOrNull),
            ("retransmits", IntegerOrNull),
            ("rtt_us", IntegerOrNull),
            ("owner", OwnerOrNull),
            ("owner_how", OWNER_HOW),
        ],
    ),
    (
        "process",
        &[],
        &[
            ("pid", Integer),
            ("comm", TextOrNull),
            ("stuck", Integer),
            ("shared", Integer),
            ("oldest_ms", NumberOrNull),
            ("growth_per_min", Change),
            ("fds_open", IntegerOrNull),
            ("fds_limit", IntegerOrNull),
            ("fds_growth_per_min", ChangeOrNull),
            ("fds_full_in_s", NumberOrNull),
        ],
    ),
    (
        "lost",
        &[],
        &[
            ("lost", Integer),
            ("lost_total", Integer),
            ("reason", OneOf(&["ring_full", "skipped", "reader_slow"])),
        ],
    ),
    ("resync", &[], &[("sockets", Integer), ("repaired", Integer), ("found", IntegerOrNull)]),
    (
        "summary",
        &[],
        &[
            ("transitions", Integer),
            ("lost", Integer),
            ("dropped", Integer),
            ("filtered", Integer),
            ("stuck", Integer),
            ("cleared", Integer),
            ("lives", Integer),
            ("resyncs", Integer),
            ("duration_ms", Number),
        ],
    ),
];

pub(super) const OWNER: Fields = &[
    ("pid", Integer),
    ("fd", IntegerOrNull),
    ("comm", TextOrNull),
    ("exe", TextOrNull),
    ("uid", IntegerOrNull),
    ("cgroup", TextOrNull),
    ("container", TextOrNull),
];

pub(super) const ORIGIN: Fields = &[
    ("pid", Integer),
    ("tid", Integer),
    ("comm", Text),
    ("how", OneOf(&["connect", "accept", "listen"])),
    ("time", Time),
];

pub(super) const LISTENER: Fields = &[
    ("cookie", Integer),
    ("local_addr", Address),
    ("local_port", Port),
    ("backlog", Integer),
    ("backlog_limit", Integer),
];

pub(super) const PEER: Fields = &[
    ("cookie", Integer),
    ("netns", Integer),
    ("state", State),
    ("owners", Owners),
    ("owners_total", Integer),
    ("owner_how", OneOf(&["fd", "listener", "none"])),
    ("gone", Flag),
];

pub(super) const SOURCE: Fields = &[("in_use", Flag), ("why_not", TextOrNull)];

pub(super) const STATES: [&str; 11] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];
