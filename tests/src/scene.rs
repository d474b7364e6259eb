//! Sets up what many tests begin with: two processes and a connection between them.

use std::net::SocketAddr;

use crate::{
    namespace::Namespace,
    process::monotonic_ns,
    puppet::{Puppet, Sock},
    witness,
};

/// A network namespace with a server that listens on 127.0.0.1, and a client.
#[derive(Debug)]
pub struct Scene {
    /// The process that connects.
    pub client: Puppet,
    /// The process that listens and accepts.
    pub server: Puppet,
    /// The server's listener.
    pub listener: Sock,
    /// The namespace that both processes are in.
    pub namespace: Namespace,
}

/// A connection that the client has closed and the server has not.
#[derive(Clone, Copy, Debug)]
pub struct Leak {
    /// The server's end: in CLOSE_WAIT, with everything read.
    pub socket: Sock,
    /// `CLOCK_MONOTONIC` before the client closed.
    pub not_before_ns: u64,
    /// `CLOCK_MONOTONIC` after the server had read the end of the stream.
    pub not_after_ns: u64,
}

impl Scene {
    /// Starts both processes in a new namespace.
    #[expect(clippy::new_without_default, reason = "it starts processes: nothing for a default")]
    pub fn new() -> Self {
        Self::with_server(Puppet::new)
    }

    /// In a namespace of its own, with the server that `start` starts there.
    pub fn with_server(start: impl FnOnce() -> Puppet) -> Self {
        let namespace = Namespace::new();
        let (client, mut server) = (Puppet::new(), start());
        let listener = server.listen("127.0.0.1:0");
        Self { client, server, listener, namespace }
    }

    /// Returns the inode of the namespace.
    pub const fn netns(&self) -> u64 {
        self.namespace.inode()
    }

    /// Returns the address of the listener.
    pub const fn address(&self) -> SocketAddr {
        self.listener.local
    }

    /// Makes a connection. Returns the client's and the server's end.
    pub fn connection(&mut self) -> (Sock, Sock) {
        let client = self.client.connect(self.listener.local);
        let server = self.server.accept(&self.listener);
        assert_eq!((client.local, client.remote), (server.remote.expect("connected"), Some(server.local)));
        (client, server)
    }

    /// Makes a connection that the client closes and the server does not.
    ///
    /// # Panics
    /// If `ss` does not show it in CLOSE-WAIT.
    pub fn leak(&mut self) -> Leak {
        let (client, socket) = self.connection();
        let not_before_ns = monotonic_ns();
        self.client.close(&client);
        self.server.read_to_the_end(&socket);
        let not_after_ns = monotonic_ns();
        assert_eq!(witness::find(&socket).map(|seen| seen.state).as_deref(), Some("CLOSE-WAIT"));
        Leak { socket, not_before_ns, not_after_ns }
    }
}
