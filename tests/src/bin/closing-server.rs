//! The server that brings the mistake in `leaky-client` to light: it answers every request with an
//! error and closes the connection, as a server in trouble does.
//!
//! Usage: `closing-server ADDRESS:PORT [STATUS]`, for example `closing-server 127.0.0.1:9666 500`.
//! It prints the address that it listens at.

#![expect(clippy::print_stdout, reason = "the address that it listens at")]

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
};

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().ok_or_else(|| io::Error::other("which ADDRESS:PORT?"))?;
    let status = arguments.next().unwrap_or_else(|| "500".to_owned());
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    for connection in listener.incoming() {
        // A client that went away in between is no reason to stop.
        let _ = answer(connection?, &status);
    }
    Ok(())
}

/// Reads the request to its empty line, answers, and closes.
fn answer(mut connection: TcpStream, status: &str) -> io::Result<()> {
    for line in BufReader::new(&connection).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let body = if status == "200" { "10.0.0.5\n10.0.0.6\n" } else { "" };
    let length = body.len();
    write!(connection, "HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
