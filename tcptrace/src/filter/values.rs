//! The values of filters, as they are written on the command line.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// A number, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    last: u32,
}

impl Range {
    pub(super) const fn contains(self, number: u32) -> bool {
        self.first <= number && number <= self.last
    }
}

/// Not a value of that filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Neither a number nor a range.
    #[error("a number such as 8080, or a range such as 8000-8999")]
    Range,
    /// A range that ends before it begins.
    #[error("it ends before it begins: did you mean {last}-{first}?")]
    Backwards {
        /// Its first number.
        first: u32,
        /// Its last one.
        last: u32,
    },
    /// A port that there is not.
    #[error("there is no port above 65535")]
    Port,
    /// No network.
    #[error("a network such as 10.0.0.0/8 or fd00::/8, or an address")]
    Network,
    /// No namespace.
    #[error("the inode number of a network namespace, such as 4026531840")]
    Namespace,
    /// No path of a cgroup.
    #[error("the path of a cgroup from the root of the hierarchy, such as /system.slice/nginx.service")]
    Cgroup,
    /// No id of a container.
    #[error("the beginning of a container's id: at least one character")]
    Container,
}

/// `N` or `N-M`.
pub(super) fn range(text: &str) -> Result<Range, InvalidValue> {
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u32>().map_err(|_| InvalidValue::Range),
        false => Err(InvalidValue::Range),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last { Err(InvalidValue::Backwards { first, last }) } else { Ok(Range { first, last }) }
}

/// The same of ports.
pub(super) fn port_range(text: &str) -> Result<Range, InvalidValue> {
    let range = range(text)?;
    if range.last > u32::from(u16::MAX) { Err(InvalidValue::Port) } else { Ok(range) }
}

/// `10.0.0.0/8`, or one address. IPv4-mapped ones are IPv4, as in the records.
pub(super) fn network(text: &str) -> Result<IpNet, InvalidValue> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| one()).map_err(|_| InvalidValue::Network)?;
    if let IpNet::V6(network) = network
        && let Some(v4) = network.addr().to_ipv4_mapped()
        && let Some(length) = network.prefix_len().checked_sub(128 - Ipv4Addr::BITS as u8)
    {
        return Ipv4Net::new(v4, length).map(IpNet::V4).map_err(|_| InvalidValue::Network);
    }
    Ok(network)
}

/// `4026531840`, or `net:[4026531840]` as readlink(1) shows it.
pub(super) fn namespace(text: &str) -> Result<u32, InvalidValue> {
    let bare = text.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| InvalidValue::Namespace)
}

/// An absolute path, with no slash at its end: that of the root is empty.
pub(super) fn path(text: &str) -> Result<String, InvalidValue> {
    let path = text.strip_prefix("/sys/fs/cgroup").unwrap_or(text);
    if path.starts_with('/') { Ok(path.trim_end_matches('/').to_owned()) } else { Err(InvalidValue::Cgroup) }
}

pub(super) fn container(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() { Err(InvalidValue::Container) } else { Ok(text.to_owned()) }
}
