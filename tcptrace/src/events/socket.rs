//! Which socket a record is about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use tcptrace_common::{AF_INET, AF_INET6, Tuple, v4_mapped};

/// The socket that a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SocketId {
    /// The kernel's socket cookie: what `ss -e` prints in hex as `sk:`; never used twice between
    /// two boots. Without the feature `socket_cookie`: an id of tcptrace's own, stable for the
    /// socket's life.
    pub cookie: u64,
    /// Inode number of its network namespace (`readlink /proc/PID/ns/net`). Null for what only
    /// transitions report, on a kernel without BTF.
    pub netns: Option<u32>,
    /// What is spoken on the wire: an IPv4-mapped address is IPv4.
    pub family: Family,
    /// Address of its own end, without a zone: `fe80::1`, not `fe80::1%eth0`.
    pub local_addr: IpAddr,
    /// Port of its own end; 0 only if the kernel has yet to choose it, in `CLOSE` to `SYN_SENT`.
    pub local_port: u16,
    /// Address of the other end, without a zone.
    pub remote_addr: IpAddr,
    /// Port of the other end; 0 only for a listener.
    pub remote_port: u16,
    /// Index of the interface that a link-local address (`fe80::/10`) is on, in the namespace
    /// `netns`. Absent for other addresses; absent too if it is not known: for what only
    /// transitions report without BTF, and for an index above 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u16>,
}

/// An address family, by what is spoken on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4, also through a dual-stack socket.
    Ipv4,
    /// An IPv6 address that maps no IPv4 address.
    Ipv6,
}

impl Family {
    /// The word that records use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl SocketId {
    /// Converts the wire's form.
    pub fn new(cookie: u64, netns: u32, tuple: &Tuple) -> Self {
        let local = Ipv6Addr::from(tuple.local_addr);
        let remote = Ipv6Addr::from(tuple.remote_addr);
        let mapped = |address: Ipv6Addr| address.to_ipv4_mapped();
        let is_v4 = tuple.family == AF_INET || mapped(local).is_some() || mapped(remote).is_some();
        // A dual-stack socket that has one end yet has `::` for the other.
        let v4 = |address| IpAddr::V4(mapped(address).unwrap_or(Ipv4Addr::UNSPECIFIED));
        let (family, local_addr, remote_addr) = if is_v4 {
            (Family::Ipv4, v4(local), v4(remote))
        } else {
            (Family::Ipv6, IpAddr::V6(local), IpAddr::V6(remote))
        };
        let Tuple { local_port, remote_port, interface, .. } = *tuple;
        let netns = Some(netns).filter(|netns| *netns != 0);
        let needs_interface = is_link_local(local_addr) || is_link_local(remote_addr);
        let interface = Some(interface).filter(|interface| *interface != 0 && needs_interface);
        Self { cookie, netns, family, local_addr, local_port, remote_addr, remote_port, interface }
    }

    /// Converts to the wire's form.
    pub fn tuple(&self) -> Tuple {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4_mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        let Self { family, local_addr, local_port, remote_addr, remote_port, interface, .. } = *self;
        let family = if family == Family::Ipv4 { AF_INET } else { AF_INET6 };
        let (local_addr, remote_addr) = (octets(local_addr), octets(remote_addr));
        let interface = interface.unwrap_or(0);
        Tuple { local_addr, remote_addr, local_port, remote_port, family, interface }
    }
}

/// Whether an address has a meaning on one link only (`fe80::/10`).
pub const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
