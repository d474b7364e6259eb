//! Answers HTTP at the address given, and at no other.
//!
//! For each scrape it requests figures from the run loop, which counts them between two of its
//! steps: tracing waits for nothing else that a client does. Connections are bounded in number,
//! size and time. If there are too many, the one whose last request is the longest ago is closed,
//! so that idle clients cannot keep a scraper out.

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    events::Figures,
    outputs::prometheus::page::{MEDIA_TYPE, render_page},
};

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 16;

/// The most connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 128;

/// How long after its last request, or its start, a connection is closed. It is longer than most
/// scrape intervals, so that a scraper can keep its connection.
const PATIENCE: Duration = Duration::from_secs(90);

/// The most bytes of a request's head: the least that hyper allows.
const MAX_HEAD: usize = 8192;

/// The pause after a connection could not be accepted, for example because descriptors have run
/// out.
const PAUSE: Duration = Duration::from_secs(1);

const PATH: &str = "/metrics";

/// The error if the address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {at}: {error}")]
pub struct CannotServe {
    at: SocketAddr,
    error: io::Error,
}

/// A socket that is ready to serve metrics.
#[derive(Debug)]
pub struct MetricsListener {
    socket: StdListener,
    at: SocketAddr,
}

impl MetricsListener {
    /// Binds to this address only; `[::]` does not include IPv4. With port 0 the kernel chooses a
    /// port.
    ///
    /// # Errors
    /// The address is in use, is not this host's, or may not be bound.
    pub fn bind(at: SocketAddr) -> Result<Self, CannotServe> {
        Self::try_bind(at).map_err(|error| CannotServe { at, error })
    }

    fn try_bind(at: SocketAddr) -> io::Result<Self> {
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        // Connections of an earlier run may still be in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &at)?;
        listen(&socket, BACKLOG)?;
        let at = getsockname(&socket)?.try_into()?;
        Ok(Self { socket: socket.into(), at })
    }

    /// Returns the URL of the metrics.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.at)
    }

    /// Starts to answer, and returns the scrapes that need figures.
    ///
    /// # Errors
    /// The runtime cannot wait for connections.
    pub fn serve(self) -> io::Result<Scrapes> {
        let listener = TcpListener::from_std(self.socket)?;
        let (asks, asked) = mpsc::channel(1);
        tokio::spawn(accept_connections(listener, asks));
        Ok(Scrapes(asked))
    }
}

/// The scrapes that wait for figures.
#[derive(Debug)]
pub struct Scrapes(mpsc::Receiver<Scrape>);

impl Scrapes {
    /// Polls for the next one that somebody still waits for.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Scrape> {
        loop {
            match self.0.poll_recv(context) {
                Poll::Ready(Some(scrape)) if scrape.0.is_closed() => {}
                Poll::Ready(Some(scrape)) => return Poll::Ready(scrape),
                // Nobody listens any more.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// A scrape that waits for figures.
#[derive(Debug)]
pub struct Scrape(oneshot::Sender<Figures>);

impl Scrape {
    /// Answers the scrape.
    pub(crate) fn answer(self, figures: Figures) {
        let _client_has_gone = self.0.send(figures);
    }
}

/// An open connection.
struct Connection {
    task: JoinHandle<()>,
    last: Last,
}

/// When a connection last made a request, or when it started.
#[derive(Clone)]
struct Last(Arc<Mutex<Instant>>);

impl Last {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn lock_time(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept_connections(listener: TcpListener, asks: mpsc::Sender<Scrape>) -> Infallible {
    let mut open: Vec<Connection> = Vec::with_capacity(MAX_CONNECTIONS);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        open.retain(|connection| !connection.task.is_finished());
        let longest_idle = (0..open.len()).min_by_key(|index| *open[*index].last.lock_time());
        if let Some(index) = longest_idle.filter(|_| open.len() == MAX_CONNECTIONS) {
            open.swap_remove(index).task.abort();
        }
        let last = Last::now();
        let task = tokio::spawn(serve_connection(stream, asks.clone(), last.clone()));
        open.push(Connection { task, last });
    }
}

/// Answers the requests of one connection until it ends, or until it has been idle, or has not read
/// its answer, for too long.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    asks: mpsc::Sender<Scrape>,
    last: Last,
) {
    let service = service_fn(|request| {
        *last.lock_time() = Instant::now();
        answer_request(request, asks.clone())
    });
    let connection =
        http1::Builder::new().max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    loop {
        let until = *last.lock_time() + PATIENCE;
        tokio::select! {
            _ended = &mut connection => return,
            () = sleep_until(until) => if *last.lock_time() + PATIENCE <= Instant::now() { return },
        }
    }
}

type Answer = Response<Full<Bytes>>;

/// # Errors
/// The run has ended.
async fn answer_request(
    request: Request<Incoming>,
    asks: mpsc::Sender<Scrape>,
) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    // hyper leaves out the body of the answer to HEAD.
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = text_answer(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read: GET, HEAD\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(answer);
    }
    match request.uri().path() {
        PATH => {
            let (scrape, figures) = oneshot::channel();
            asks.send(Scrape(scrape)).await?;
            let mut answer = text_answer(StatusCode::OK, render_page(&figures.await?));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
            Ok(answer)
        }
        "/" => Ok(text_answer(StatusCode::OK, "tcptrace: metrics are at /metrics\n")),
        _ => Ok(text_answer(StatusCode::NOT_FOUND, "not here: metrics are at /metrics\n")),
    }
}

fn text_answer(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A connection that holds this many bytes in transit. Requests for figures wait.
    fn connected(bytes: usize) -> (DuplexStream, JoinHandle<()>, mpsc::Receiver<Scrape>) {
        let (asks, asked) = mpsc::channel(1);
        let (ours, theirs) = duplex(bytes);
        (ours, tokio::spawn(serve_connection(theirs, asks, Last::now())), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_whole_request_is_closed_after_a_while() {
        for said in ["", "GET /metrics HT"] {
            let began = Instant::now();
            let (mut client, task, _asked) = connected(1024);
            client.write_all(said.as_bytes()).await.expect("there is room");
            assert_eq!(client.read(&mut [0]).await.expect("the end"), 0);
            assert!(began.elapsed() >= PATIENCE && began.elapsed() < 2 * PATIENCE);
            task.await.expect("it does not panic");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_closed_after_a_while() {
        let began = Instant::now();
        let (mut client, task, _asked) = connected(40);
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("there is room");
        task.await.expect("it does not panic");
        assert!(began.elapsed() >= PATIENCE);
        let mut taken = String::new();
        client.read_to_string(&mut taken).await.expect("what was on its way");
        assert!(taken.starts_with("HTTP/1.1 200") && taken.len() <= 40, "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_makes_another_request_in_time_keeps_its_connection() {
        let (mut client, _task, _asked) = connected(1024);
        for _ in 0..5 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it is open");
            let mut answer = vec![0; 1024];
            let length = client.read(&mut answer).await.expect("it is open");
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(answer.ends_with("metrics are at /metrics\n"), "{answer}");
            sleep(PATIENCE - Duration::from_secs(1)).await;
        }
    }

    #[tokio::test]
    async fn a_scrape_that_nobody_waits_for_any_more_is_passed_over() {
        let (asks, asked) = mpsc::channel(2);
        let mut scrapes = Scrapes(asked);
        let ((gone, of_gone), (there, _of_there)) = (oneshot::channel(), oneshot::channel());
        drop(of_gone);
        for scrape in [gone, there] {
            asks.send(Scrape(scrape)).await.expect("there is room");
        }
        let next = std::future::poll_fn(|context| scrapes.poll_next(context)).await;
        assert!(!next.0.is_closed());
    }
}
