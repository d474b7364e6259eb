//! A client with the mistake that tcptrace was written to find: it refreshes a list of addresses
//! by HTTP, and where the answer is an error it returns early, past the line that would have
//! released the connection.
//!
//! Usage: `leaky-client ADDRESS:PORT [INTERVAL_MS [REQUESTS]]`, for example `leaky-client
//! 127.0.0.1:9666 1000`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program to look at while it runs")]

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpStream,
    thread::sleep,
    time::Duration,
};

/// Connections in use. Whoever is done with one has to take it out again: that closes it.
type Pool = Vec<TcpStream>;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().ok_or_else(|| io::Error::other("which ADDRESS:PORT?"))?;
    let interval =
        Duration::from_millis(arguments.next().map_or(1_000, |text| text.parse().expect("milliseconds")));
    let requests = arguments.next().map_or(usize::MAX, |text| text.parse().expect("a number of requests"));

    let mut pool = Pool::new();
    for _ in 0..requests {
        match refresh(&address, &mut pool) {
            Ok(addresses) => println!("{} addresses", addresses.len()),
            Err(error) => eprintln!("keeping the old addresses: {error}"),
        }
        sleep(interval);
    }
    println!("{} requests made, {} connections in the pool", requests, pool.len());
    // Stays, as a service does, until its stdin is closed.
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}

/// Fetches the list of addresses, one a line.
fn refresh(address: &str, pool: &mut Pool) -> io::Result<Vec<String>> {
    let connection = TcpStream::connect(address)?;
    let mut answer = BufReader::new(connection.try_clone()?);
    pool.push(connection);
    let connection = pool.last_mut().expect("pushed just now");
    write!(connection, "GET /addresses HTTP/1.1\r\nHost: {address}\r\n\r\n")?;

    let mut status = String::new();
    answer.read_line(&mut status)?;
    if !status.contains(" 200 ") {
        // The mistake: this connection is in the pool, and nobody will ever take it out.
        return Err(io::Error::other(status.trim_end().to_owned()));
    }
    let lines: Vec<String> = answer.lines().collect::<io::Result<_>>()?;
    let body = lines.into_iter().skip_while(|line| !line.is_empty()).skip(1);
    pool.pop(); // done with it: released
    Ok(body.collect())
}
