//! An IPv4 address as text, in one piece: there are two in every line.

use std::net::Ipv4Addr;

/// The text of an address: `127.0.0.1`.
pub(crate) struct Dotted {
    text: [u8; 15],
    length: usize,
}

impl Dotted {
    pub(crate) fn of(address: Ipv4Addr) -> Self {
        let mut dotted = Self { text: [0; 15], length: 0 };
        for (at, octet) in address.octets().into_iter().enumerate() {
            if at > 0 {
                dotted.push_byte(b'.');
            }
            if octet >= 100 {
                dotted.push_byte(b'0' + octet / 100);
            }
            if octet >= 10 {
                dotted.push_byte(b'0' + octet / 10 % 10);
            }
            dotted.push_byte(b'0' + octet % 10);
        }
        dotted
    }

    fn push_byte(&mut self, byte: u8) {
        self.text[self.length] = byte;
        self.length += 1;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_else(|_| unreachable!("digits and dots"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_is_written_as_everybody_writes_it(octets: [u8; 4]) {
            let address = Ipv4Addr::from(octets);
            let dotted = Dotted::of(address);
            prop_assert_eq!(dotted.text(), address.to_string());
        }
    }

    #[test]
    fn the_longest_has_room() {
        assert_eq!(Dotted::of(Ipv4Addr::BROADCAST).text(), "255.255.255.255");
    }
}
