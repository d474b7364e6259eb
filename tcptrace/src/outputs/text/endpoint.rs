//! The two ends of a socket: in columns, or below the line if the terminal has no room.

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    events::{SocketId, is_link_local},
    humanize::{interface::InterfaceNames, name::printable_name, number::write_number, width::display_width},
    outputs::{
        dotted::Dotted,
        text::{
            canvas::Canvas,
            column::{align_right, padding_after, width_of},
            layout::{Endpoints, LONG_ENDPOINT},
        },
    },
};

impl Canvas {
    /// Widens the columns of both ends if those of this socket need more room.
    pub(crate) fn fit_endpoints(&mut self, socket: &SocketId) {
        let is_ipv4 = socket.local_addr.is_ipv4() && socket.remote_addr.is_ipv4();
        if is_ipv4 || self.needs.endpoint >= LONG_ENDPOINT && socket.interface.is_none() {
            return;
        }
        let zone = zone_suffix(self.interface_names, socket);
        let mut text = String::new();
        write_endpoint(&mut text, socket.local_addr, &zone, socket.local_port);
        let mut needs = self.needs;
        needs.fit_endpoint(text.len());
        text.clear();
        write_remote(&mut text, socket, &zone);
        needs.fit_endpoint(text.len());
        self.widen(needs);
    }

    /// Appends the columns of both ends of a socket, and a space.
    pub(crate) fn write_socket_endpoints(&mut self, line: &mut String, socket: &SocketId) {
        let zone = zone_suffix(self.interface_names, socket);
        let local = |line: &mut String| write_endpoint(line, socket.local_addr, &zone, socket.local_port);
        let remote = |line: &mut String| write_remote(line, socket, &zone);
        let ports = (socket.local_port, socket.remote_port);
        self.write_endpoints(line, ports, local, remote);
    }

    /// Appends the columns of what `local` and `remote` write, and a space. If one of the two does
    /// not fit its column, both are written below.
    pub(crate) fn write_endpoints(
        &mut self,
        line: &mut String,
        (local_port, remote_port): (u16, u16),
        local: impl Fn(&mut String),
        remote: impl Fn(&mut String),
    ) {
        let fit = match self.layout.endpoints {
            Endpoints::Both(width) => {
                let local_fits = write_endpoint_cell(line, width, local_port, &local);
                line.push(' ');
                write_endpoint_cell(line, width, remote_port, &remote) & local_fits
            }
            Endpoints::LocalPort(width) => {
                align_right(line, 5, |line| write_port(line, local_port));
                line.push(' ');
                write_endpoint_cell(line, width, remote_port, &remote)
            }
            Endpoints::Below => false,
        };
        if self.layout.endpoints != Endpoints::Below {
            line.push(' ');
        }
        if !fit {
            local(&mut self.below);
            self.below.push_str("->");
            remote(&mut self.below);
            if !self.layout.has_room_for(self.layout.continuation_indent() + display_width(&self.below)) {
                self.below.clear();
                self.below.push(':');
                write_port(&mut self.below, local_port);
                self.below.push_str("->");
                remote(&mut self.below);
            }
        }
    }
}

/// Appends the endpoint that `write` writes, and spaces up to `width` columns. An endpoint that is
/// wider is replaced by its port and a sign that there is more, `[…]:443`. Returns whether the
/// endpoint fits.
fn write_endpoint_cell(line: &mut String, width: usize, port: u16, write: impl FnOnce(&mut String)) -> bool {
    let begin = line.len();
    write(line);
    let mut taken = width_of(&line[begin..]);
    let fits = taken <= width;
    if !fits {
        line.truncate(begin);
        line.push_str("[…]:");
        write_port(line, port);
        taken = width_of(&line[begin..]);
    }
    line.push_str(padding_after(taken, width));
    fits
}

/// Returns the zone of a socket's link-local addresses: `%eth0`, or `%3` if the interface has no
/// name here. It is empty if neither end has a link-local address.
pub(crate) fn zone_suffix(names: Option<InterfaceNames>, socket: &SocketId) -> String {
    let Some(index) = socket.interface else { return String::new() };
    match names.filter(|names| socket.netns == Some(names.netns)).and_then(|names| (names.name)(index)) {
        Some(name) => format!("%{}", printable_name(&name)),
        None => format!("%{index}"),
    }
}

/// Appends a socket's remote end; `*` for a listener, which has none.
pub(crate) fn write_remote(line: &mut String, socket: &SocketId, zone: &str) {
    if socket.remote_port == 0 && socket.remote_addr.is_unspecified() {
        line.push('*');
    } else {
        write_endpoint(line, socket.remote_addr, zone, socket.remote_port);
    }
}

/// Appends an address and a port. A link-local address gets its zone; port 0 is `*`, any port.
pub(crate) fn write_endpoint(line: &mut String, address: IpAddr, zone: &str, port: u16) {
    match address {
        IpAddr::V4(v4) => line.push_str(Dotted::of(v4).text()),
        IpAddr::V6(v6) => {
            let zone = if is_link_local(address) { zone } else { "" };
            let _infallible = write!(line, "[{v6}{zone}]");
        }
    }
    line.push(':');
    write_port(line, port);
}

/// Appends a port; `*` for 0, which is any port.
pub(crate) fn write_port(line: &mut String, port: u16) {
    if port == 0 { line.push('*') } else { write_number(line, port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_any_port_are_told_apart() {
        let written = |address: &str| {
            let mut line = String::new();
            write_endpoint(&mut line, address.parse().expect("an address"), "%9", 0);
            line
        };
        assert_eq!((written("::1"), written("10.0.0.5")), ("[::1]:*".to_owned(), "10.0.0.5:*".to_owned()));
    }
}
