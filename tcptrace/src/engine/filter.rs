//! Filters: which records are reported. What they keep back is tracked and judged all the same, so
//! that no socket's history depends on them.
//!
//! Pure: they look at records. Each filter admits what is in one of its values; all that are given
//! have to admit.

pub mod admission;
pub mod missing;
pub mod values;

use std::net::IpAddr;

use ipnet::IpNet;

use self::values::{
    parse_cgroup, parse_comm, parse_container, parse_namespace, parse_network, parse_pids, parse_ports,
    parse_program, parse_uids, parse_unit,
};
use crate::events::{Family, Name, Owner, SocketId};
pub use missing::{HostContents, Missing, Resident};
pub use values::{InvalidValue, Range};

/// What is to be reported; without any value, everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Filters")]
pub struct Filter {
    /// Sockets of these processes; a pid as the host sees it, or as its container does
    #[arg(long, value_name = "N[-M],…", value_delimiter = ',', value_parser = parse_pids, allow_hyphen_values = true)]
    pid: Vec<Range>,

    /// Sockets of processes with one of these names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = parse_comm)]
    comm: Vec<String>,

    /// Sockets of processes with one of these real user ids
    #[arg(long, value_name = "N[-M],…", value_delimiter = ',', value_parser = parse_uids, allow_hyphen_values = true)]
    uid: Vec<Range>,

    /// Sockets with one of these ports at either end
    #[arg(long, value_name = "N[-M],…", value_delimiter = ',', value_parser = parse_ports, allow_hyphen_values = true)]
    port: Vec<Range>,

    /// Sockets with one of these local ports
    #[arg(long, value_name = "N[-M],…", value_delimiter = ',', value_parser = parse_ports, allow_hyphen_values = true)]
    local_port: Vec<Range>,

    /// Sockets with one of these remote ports
    #[arg(long, value_name = "N[-M],…", value_delimiter = ',', value_parser = parse_ports, allow_hyphen_values = true)]
    remote_port: Vec<Range>,

    /// Sockets with a local address in one of these networks
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', value_parser = parse_network)]
    local: Vec<IpNet>,

    /// Sockets with a remote address in one of these networks
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', value_parser = parse_network)]
    remote: Vec<IpNet>,

    /// Sockets in one of these network namespaces, by inode number: what `readlink
    /// /proc/PID/ns/net` shows
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_namespace, allow_hyphen_values = true)]
    netns: Vec<u32>,

    /// Sockets of processes in this cgroup or below it, by its path from the hierarchy's root
    #[arg(long, value_name = "PATH,…", value_delimiter = ',', value_parser = parse_cgroup)]
    cgroup: Vec<String>,

    /// Sockets of processes in the containers whose ids begin like this
    #[arg(long, value_name = "ID-PREFIX,…", value_delimiter = ',', value_parser = parse_container)]
    container: Vec<String>,

    /// Sockets of processes in these systemd units; `.service` may be left out
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = parse_unit, allow_hyphen_values = true)]
    unit: Vec<String>,

    /// Sockets of processes whose `program` has this in it, such as app.jar or worker.py
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',', value_parser = parse_program)]
    program: Vec<String>,

    /// Only IPv4; an IPv4-mapped address counts as IPv4
    #[arg(short = '4', conflicts_with = "ipv6")]
    ipv4: bool,

    /// Only IPv6
    #[arg(short = '6')]
    ipv6: bool,
}

impl Filter {
    /// Whether everything is admitted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it depends on the process.
    pub fn asks_for_processes(&self) -> bool {
        let Self { pid, comm, uid, cgroup, container, unit, program, .. } = self;
        let texts = [comm, cgroup, container, unit, program];
        !(pid.is_empty() && uid.is_empty() && texts.iter().all(|texts| texts.is_empty()))
    }

    /// Whether it depends on what a process runs.
    pub(crate) const fn asks_for_programs(&self) -> bool {
        !self.program.is_empty()
    }

    /// Whether a record about this socket is admitted, which has to do with these processes.
    pub fn admits<'a>(&self, socket: &SocketId, owners: impl IntoIterator<Item = &'a Owner>) -> bool {
        self.admits_socket(socket)
            && (!self.asks_for_processes() || owners.into_iter().any(|owner| self.admits_owner(owner)))
    }

    /// Whether the socket is, as far as it depends on the socket.
    pub fn admits_socket(&self, socket: &SocketId) -> bool {
        let SocketId { netns, family, local_addr, local_port, remote_addr, remote_port, .. } = *socket;
        let [local_port, remote_port] = [local_port, remote_port].map(u32::from);
        let any_family = self.ipv4 == self.ipv6;
        (any_family || self.ipv4 == (family == Family::Ipv4))
            && (admits(&self.port, local_port) || admits(&self.port, remote_port))
            && admits(&self.local_port, local_port)
            && admits(&self.remote_port, remote_port)
            && is_in(&self.local, local_addr)
            && is_in(&self.remote, remote_addr)
            && (self.netns.is_empty() || netns.is_some_and(|netns| self.netns.contains(&netns)))
    }

    /// Whether the process is, as far as it depends on the process. What is not known of it is not
    /// what was asked for.
    pub fn admits_owner(&self, owner: &Owner) -> bool {
        let Owner { pid, inner_pids, comm, program, uid, cgroup, unit, container, .. } = owner;
        let any = |wanted: &[String], is: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|wanted| is(wanted))
        };
        let has_name = |wanted: &str| comm.is_some_and(|comm| comm == Name::from_bytes(wanted.as_bytes()));
        let is_below = |wanted: &str| {
            let rest = cgroup.as_deref().and_then(|path| path.strip_prefix(wanted));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let has_id = |wanted: &str| container.as_deref().is_some_and(|id| id.starts_with(wanted));
        (admits(&self.pid, *pid)
            || inner_pids.as_deref().is_some_and(|pids| pids.iter().any(|pid| admits(&self.pid, *pid))))
            && any(&self.comm, &has_name)
            && (self.uid.is_empty() || uid.is_some_and(|uid| admits(&self.uid, uid)))
            && any(&self.cgroup, &is_below)
            && any(&self.container, &has_id)
            && any(&self.unit, &|wanted| unit.as_deref() == Some(wanted))
            && any(&self.program, &|wanted| {
                program.as_deref().is_some_and(|program| program.contains(wanted))
            })
    }
}

fn admits(ranges: &[Range], number: u32) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| range.contains(number))
}

fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
pub(crate) mod tests;
