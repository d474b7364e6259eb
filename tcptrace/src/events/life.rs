//! The record `life`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::events::{
    Instant, Owner, OwnerHow, SocketId, TimeInState, bounds,
    fields::record,
    instant::{rfc3339_or_null, wall_time_or_null},
};

record! {
    /// A connection is over (`--lives`).
    pub struct LifeRecord {
        ..socket: SocketId,
        /// When it began; null for a connection from before the start.
        #[serde(serialize_with = "rfc3339_or_null", deserialize_with = "wall_time_or_null")]
        pub opened: Option<Instant>,
        /// From `opened` to its end, milliseconds; null if either was not seen.
        pub duration_ms: Option<f64>,
        /// The end of the connection that the socket was.
        pub role: Role,
        /// How long it was in each state, milliseconds by state name, as far as that was seen.
        pub states: TimeInState,
        /// What ended it.
        pub close_reason: CloseReason,
        /// The socket's error (`sk_err`), an errno's name such as `ECONNRESET`; null if there is
        /// none.
        #[serde(serialize_with = "bounds::text_or_null")]
        pub error: Option<Cow<'static, str>>,
        /// Bytes of payload sent, each counted once (`tcp_sock.bytes_sent` − `bytes_retrans`);
        /// null if the kernel does not tell.
        pub bytes_sent: Option<u64>,
        /// Bytes of payload received, each counted once (`tcp_sock.bytes_received`); null if the
        /// kernel does not tell.
        pub bytes_received: Option<u64>,
        /// Segments sent again (`tcp_sock.total_retrans`); null if the kernel does not tell.
        pub retransmits: Option<u32>,
        /// Smoothed round-trip time at the end, microseconds (`tcp_sock.srtt_us`); null if there
        /// was no sample.
        pub rtt_us: Option<u32>,
        /// The process that closed it, or else the one that connected or accepted it; null if
        /// neither is known.
        pub owner: Option<Owner>,
        /// How `owner` is known.
        pub owner_how: OwnerHow,
        /// When `owner` connected or accepted the socket, `CLOCK_MONOTONIC` nanoseconds. The
        /// process may have ended since.
        #[serde(skip)]
        pub owned_ns: Option<u64>,
    }
}

/// The end of a connection that a socket is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The socket connected.
    Client,
    /// The socket came from a listener.
    Server,
    /// It is not known which end it was.
    #[default]
    Unknown,
}

/// What ended a connection's life. If several reasons fit, the first of this list applies:
/// `destroyed`, `timeout`, `refused`, `reset_received` before this end had closed, `exit`,
/// `reset_sent`, then the end that closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// This end closed first: it sent the first FIN, or gave up while it was still connecting.
    LocalClose,
    /// The peer sent the first FIN, and this end closed after it.
    PeerClose,
    /// The peer reset the connection before this end had closed.
    ResetReceived,
    /// This end reset the connection: it closed with data unread or with SO_LINGER 0, aborted the
    /// connection, or closed the listener before the connection was accepted.
    ResetSent,
    /// The kernel gave up waiting for the peer.
    Timeout,
    /// The peer, or a router on the way, refused the connection.
    Refused,
    /// The process exited with the socket open, and that closed it.
    Exit,
    /// An administrator destroyed the socket (`ss --kill`).
    Destroyed,
    /// What ended it is not known.
    Unknown,
}
