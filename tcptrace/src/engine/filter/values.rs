//! The values of filters, as they are written on the command line.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net};

/// A number, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    last: u32,
}

impl Range {
    /// Its only number, if it has one.
    pub(crate) fn only_number(self) -> Option<u32> {
        (self.first == self.last).then_some(self.first)
    }

    pub(crate) const fn contains(self, number: u32) -> bool {
        self.first <= number && number <= self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// How the names of systemd units that have processes end (systemd.unit(5)); slices only hold other
/// units.
pub(crate) const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// Not a value of that filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// The value is no pid.
    #[error("a pid is a number such as 4242, or a range such as 4000-4999; --comm selects by name")]
    Pid,
    /// The pid that the kernel itself goes by.
    #[error("no process has the pid 0")]
    PidZero,
    /// No user id.
    #[error("a user id is a number such as 1000, or a range such as 1000-1999; `id -u NAME` prints it")]
    Uid,
    /// The value is no port.
    #[error("a port is a number such as 8080, or a range such as 8000-8999")]
    Port,
    /// A port that there is not.
    #[error("ports are 1 to 65535")]
    NoSuchPort,
    /// A range that ends before it begins.
    #[error("it ends before it begins: did you mean {last}-{first}?")]
    Backwards {
        /// Its first number.
        first: u32,
        /// Its last one.
        last: u32,
    },
    /// No name of a process.
    #[error("a process's name has at least one character, for example --comm nginx")]
    Comm,
    /// The value is no network.
    #[error("a network such as 10.0.0.0/8 or fd00::/8, or an address; names are not resolved")]
    Network,
    /// A prefix longer than an address.
    #[error("a prefix of an IPv4 address has at most 32 bits, of an IPv6 address 128")]
    Prefix,
    /// An address with a port.
    #[error("an address without a port: that goes to --port, --local-port or --remote-port")]
    AddressAndPort,
    /// The value is no namespace.
    #[error(
        "the inode number of a network namespace, such as 4026531840: `lsns -t net` lists them, \
         `stat -Lc %i /run/netns/NAME` prints that of a name"
    )]
    Namespace,
    /// No path of a cgroup.
    #[error("the path of a cgroup from the root of the hierarchy, such as /system.slice/nginx.service")]
    Cgroup,
    /// The value is no name of a unit.
    #[error("the name of a systemd unit, such as nginx.service or nginx; `ps -o unit= -p PID` prints it")]
    Unit,
    /// The value is no part of a program's name.
    #[error("a part of what a program is called has at least one character, for example --program app.jar")]
    Program,
    /// No id of a container.
    #[error("the beginning of a container's id: at least one character")]
    Container,
}

/// `N` or `N-M`; `invalid` where it is neither.
fn parse_range(text: &str, invalid: &InvalidValue) -> Result<Range, InvalidValue> {
    let number = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if is_number { text.parse::<u32>().ok() } else { None };
        number.ok_or_else(|| invalid.clone())
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last { Err(InvalidValue::Backwards { first, last }) } else { Ok(Range { first, last }) }
}

/// A range of pids.
pub(crate) fn parse_pids(text: &str) -> Result<Range, InvalidValue> {
    let range = parse_range(text, &InvalidValue::Pid)?;
    if range.first == 0 { Err(InvalidValue::PidZero) } else { Ok(range) }
}

/// A range of user ids.
pub(crate) fn parse_uids(text: &str) -> Result<Range, InvalidValue> {
    parse_range(text, &InvalidValue::Uid)
}

/// A range of ports.
pub(crate) fn parse_ports(text: &str) -> Result<Range, InvalidValue> {
    let range = parse_range(text, &InvalidValue::Port)?;
    let is_port = |number| (1..=u32::from(u16::MAX)).contains(&number);
    if is_port(range.first) && is_port(range.last) { Ok(range) } else { Err(InvalidValue::NoSuchPort) }
}

/// A process's name.
pub(crate) fn parse_comm(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() { Err(InvalidValue::Comm) } else { Ok(text.to_owned()) }
}

/// The bits of an IPv6 address before the IPv4 address that it maps: `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

/// `10.0.0.0/8`, or one address. IPv4-mapped ones are IPv4, as in the records.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, InvalidValue> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| one()).map_err(|_| not_a_network(text))?;
    if let IpNet::V6(network) = network
        && let Some(v4) = network.addr().to_ipv4_mapped()
        && let Some(length) = network.prefix_len().checked_sub(MAPPED_BITS)
    {
        return Ipv4Net::new(v4, length).map(IpNet::V4).map_err(|_| InvalidValue::Network);
    }
    Ok(network)
}

fn not_a_network(text: &str) -> InvalidValue {
    let address = text.split_once('/').map(|(address, _)| address);
    if address.is_some_and(|address| address.parse::<IpAddr>().is_ok()) {
        InvalidValue::Prefix
    } else if text.parse::<SocketAddr>().is_ok() {
        InvalidValue::AddressAndPort
    } else {
        InvalidValue::Network
    }
}

/// `4026531840`, or `net:[4026531840]` as readlink(1) shows it.
pub(crate) fn parse_namespace(text: &str) -> Result<u32, InvalidValue> {
    let bare = text.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().filter(|number| *number != 0).ok_or(InvalidValue::Namespace)
}

/// An absolute path, with no slash at its end: that of the root is empty.
pub(crate) fn parse_cgroup(text: &str) -> Result<String, InvalidValue> {
    let path = text.strip_prefix("/sys/fs/cgroup").unwrap_or(text);
    if path.starts_with('/') { Ok(path.trim_end_matches('/').to_owned()) } else { Err(InvalidValue::Cgroup) }
}

/// Parses the name of a unit, with `.service` where the name does not say what kind of unit it is.
pub(crate) fn parse_unit(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() || text.contains('/') {
        return Err(InvalidValue::Unit);
    }
    let is_whole = UNIT_SUFFIXES.iter().any(|suffix| text.ends_with(suffix));
    Ok(if is_whole { text.to_owned() } else { format!("{text}.service") })
}

/// Parses a part of what a program is called.
pub(crate) fn parse_program(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() { Err(InvalidValue::Program) } else { Ok(text.to_owned()) }
}

pub(crate) fn parse_container(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() { Err(InvalidValue::Container) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_two_numbers_are_a_range_of_all_between_or_an_error_that_turns_them_round(
            first: u32, last: u32, other: u32
        ) {
            match parse_uids(&format!("{first}-{last}")) {
                Ok(range) => {
                    prop_assert!(range.contains(first) && range.contains(last));
                    prop_assert_eq!(range.contains(other), (first..=last).contains(&other));
                    prop_assert_eq!(range.only_number().is_some(), first == last);
                }
                Err(error) => {
                    prop_assert_eq!(&error, &InvalidValue::Backwards { first, last });
                    let turned = format!("{last}-{first}");
                    prop_assert!(error.to_string().contains(&turned));
                }
            }
            prop_assert_eq!(parse_uids(&first.to_string()).map(Range::only_number), Ok(Some(first)));
        }

        #[test]
        fn any_text_is_a_value_that_there_may_be_or_an_error(text in "[0-9-]{0,12}|[0-9a-f:./]{0,20}|\\PC{0,20}") {
            if let Ok(range) = parse_pids(&text) {
                prop_assert!(0 < range.first && range.first <= range.last);
            }
            if let Ok(range) = parse_ports(&text) {
                prop_assert!(0 < range.first && range.first <= range.last && range.last <= 65_535);
            }
            if let Ok(network) = parse_network(&text) {
                prop_assert_eq!(parse_network(&network.to_string()), Ok(network));
            }
            if let Ok(path) = parse_cgroup(&text) {
                prop_assert!(path.is_empty() || (path.starts_with('/') && !path.ends_with('/')));
            }
            prop_assert_ne!(parse_namespace(&text), Ok(0));
        }

        #[test]
        fn any_address_is_in_its_networks_and_in_no_longer_one_of_its_neighbour(
            address: IpAddr, length in 0_u8..=128, flipped in 0_u32..128
        ) {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let text = format!("{address}/{length}");
            if u32::from(length) > bits {
                prop_assert_eq!(parse_network(&text), Err(InvalidValue::Prefix));
                return Ok(());
            }
            let network = parse_network(&text).expect("an address and a prefix");
            prop_assert!(network.contains(&address.to_canonical()) || network.contains(&address));
            // The same but for one bit: in the network if the prefix does not reach that bit.
            let flipped = flipped % bits;
            let neighbour = match address {
                IpAddr::V4(v4) => IpAddr::from(std::net::Ipv4Addr::from_bits(v4.to_bits() ^ (1 << (31 - flipped)))),
                IpAddr::V6(v6) => IpAddr::from(std::net::Ipv6Addr::from_bits(v6.to_bits() ^ (1 << (127 - flipped)))),
            };
            if neighbour.to_canonical() == neighbour && address.to_canonical() == address {
                prop_assert_eq!(network.contains(&neighbour), u32::from(length) <= flipped);
            }
        }

        #[test]
        fn any_namespace_is_understood_as_tools_print_it(inode in 1_u32..) {
            prop_assert_eq!(parse_namespace(&inode.to_string()), Ok(inode));
            prop_assert_eq!(parse_namespace(&format!("net:[{inode}]")), Ok(inode));
        }
    }
}
