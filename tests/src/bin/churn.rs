//! Load for `cargo xtask bench`: opens and closes connections to itself as fast as it can, in a
//! network namespace of its own.
//!
//! Usage: `churn CONNECTIONS THREADS`. Each connection is accepted, closed by its client, read to
//! its end by its server and closed there: ten transitions. It prints `CONNECTIONS SECONDS`: those
//! made, and the time that took.

#![expect(clippy::print_stdout, reason = "its answer")]

use std::{
    env,
    io::{self, Read as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use tests::Namespace;

/// So many connections go to one address before the next is taken: fewer than it has ports to be
/// connected from, of which TIME_WAIT keeps each for a minute.
const TO_ONE_ADDRESS: usize = 8192;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1).map(|text| text.parse::<usize>().ok());
    let (Some(Some(connections)), Some(Some(threads @ 1..=200)), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(io::Error::other("usage: churn CONNECTIONS THREADS"));
    };
    let _namespace = Namespace::new();
    let each = connections / threads;
    let began = Instant::now();
    thread::scope(|scope| {
        // They are in the namespace of the thread that starts them.
        let all: Vec<_> =
            (0..=u8::MAX).take(threads).map(|thread| scope.spawn(move || churn(thread, each))).collect();
        all.into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    println!("{} {}", each * threads, began.elapsed().as_secs_f64());
    Ok(())
}

/// Makes so many connections, one after the other.
fn churn(thread: u8, connections: usize) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    for nth in 0..connections {
        let [.., high, low] = (nth / TO_ONE_ADDRESS).to_be_bytes();
        // All of 127.0.0.0/8 leads here (and 127.x.255.255 is taken by few runs).
        let client = TcpStream::connect((Ipv4Addr::new(127, 1 + thread, high, low), port))?;
        let (mut server, _) = listener.accept()?;
        drop(client);
        if server.read(&mut [0])? != 0 {
            return Err(io::Error::other("data came from a client that sends none"));
        }
    }
    Ok(())
}
