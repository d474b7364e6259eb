//! Fetches what `--metrics` serves: a small HTTP client, and a strict parser of Prometheus'
//! exposition format 0.0.4.

use std::{
    collections::{BTreeMap, HashSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::process::patience;

/// Labels and their values.
pub type Labels = BTreeMap<String, String>;

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code, such as 200.
    pub status: u16,
    /// The headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

/// A metric of a page.
#[derive(Clone, Debug, Default)]
pub struct Metric {
    /// The type: `counter` or `gauge`.
    pub kind: String,
    /// The help text.
    pub help: String,
    /// Each set of labels, and its value.
    pub values: Vec<(Labels, f64)>,
}

/// All metrics that are served, by name.
#[derive(Clone, Debug)]
pub struct Page(pub BTreeMap<String, Metric>);

/// Connects, and sends nothing. Reading fails after [`patience`].
///
/// # Panics
/// If the connection is refused.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, patience()).expect("somebody listens there");
    stream.set_read_timeout(Some(patience())).expect("it is not zero");
    stream.set_write_timeout(Some(patience())).expect("it is not zero");
    stream
}

/// Sends `METHOD PATH` over a new connection. Returns the response.
///
/// # Panics
/// If there is no response, or it is not HTTP.
pub fn ask(to: SocketAddr, request: &str) -> Answer {
    let mut stream = connect(to);
    let head = format!("{request} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it takes a request");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it answers and closes");
    answer(&bytes, request.starts_with("HEAD"))
}

/// Fetches the metrics over a connection that stays open.
///
/// # Panics
/// As with [`ask`].
pub fn ask_again(stream: &mut TcpStream) -> Page {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it takes a request");
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).expect("it answers");
        assert!(length > 0, "it closed the connection: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&bytes);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            length == Some(body.len())
        });
        if whole {
            return Page::parse(&answer(&bytes, false));
        }
    }
}

/// Fetches the metrics.
///
/// # Panics
/// If they are not served there, or violate the format.
pub fn scrape(from: SocketAddr) -> Page {
    Page::parse(&ask(from, "GET /metrics"))
}

fn answer(bytes: &[u8], is_head: bool) -> Answer {
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let headers: BTreeMap<_, _> = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    assert!(is_head && body.is_empty() || length == Some(body.len()), "{text:?}");
    Answer { status: status.unwrap_or_else(|| panic!("no status: {text:?}")), headers, body: body.to_owned() }
}

impl Page {
    /// Parses a response as a page of metrics.
    ///
    /// # Panics
    /// If a line is wrong.
    pub fn parse(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        Self::read(&answer.body).unwrap_or_else(|why| panic!("{why}; the page was\n{}", answer.body))
    }

    fn read(text: &str) -> Result<Self, String> {
        let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
        let mut current: Option<(String, Metric)> = None;
        let mut seen = HashSet::new();
        if !text.ends_with('\n') {
            return Err("the last line has no end".to_owned());
        }
        // Not `lines()`, which takes a carriage return for part of an end.
        for line in text.strip_suffix('\n').into_iter().flat_map(|text| text.split('\n')) {
            let wrong = |why: &str| format!("{why}: {line:?}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
                if let Some((name, metric)) = current.take() {
                    metrics.insert(name, metric);
                }
                if !is_name(name) || metrics.contains_key(name) {
                    return Err(wrong("no name, or one twice"));
                }
                current = Some((name.to_owned(), Metric { help: help.to_owned(), ..Metric::default() }));
                continue;
            }
            let (name, metric) = current.as_mut().ok_or_else(|| wrong("before any metric"))?;
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (of, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
                let is_counter = name.ends_with("_total");
                let fits = if is_counter { kind == "counter" } else { kind == "gauge" };
                if of != name || !metric.kind.is_empty() || !fits {
                    return Err(wrong("a type that is not the metric's"));
                }
                kind.clone_into(&mut metric.kind);
                continue;
            }
            let rest = line.strip_prefix(name.as_str()).ok_or_else(|| wrong("of another metric"))?;
            let (labels, value) = parse_labels(rest).ok_or_else(|| wrong("labels"))?;
            let value = value.strip_prefix(' ').and_then(|value| value.parse::<f64>().ok());
            let value = value.filter(|value| value.is_finite()).ok_or_else(|| wrong("no value"))?;
            if metric.kind.is_empty() || !seen.insert((name.clone(), labels.clone())) {
                return Err(wrong("before its type, or twice"));
            }
            if metric.kind == "counter" && (value < 0.0 || value.fract() != 0.0) {
                return Err(wrong("no count"));
            }
            metric.values.push((labels, value));
        }
        metrics.extend(current);
        Ok(Self(metrics))
    }

    /// A metric of a page.
    ///
    /// # Panics
    /// If it is not served.
    pub fn metric(&self, name: &str) -> &Metric {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.0.keys()))
    }

    /// Returns the value of the series that has these labels and maybe others; `None` if there is
    /// none.
    ///
    /// # Panics
    /// If the metric is not served, or has several such values.
    pub fn value(&self, name: &str, with: &[(&str, &str)]) -> Option<f64> {
        let has = |labels: &Labels| {
            with.iter().all(|(name, value)| labels.get(*name).is_some_and(|is| is == value))
        };
        let mut values = self.metric(name).values.iter().filter(|(labels, _)| has(labels));
        let first = values.next().map(|(_, value)| *value);
        assert!(values.next().is_none(), "several {name} with {with:?}: {:?}", self.metric(name));
        first
    }

    /// Returns the sum of a metric over all its labels; `None` if it has no line.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let values: Vec<_> = self.metric(name).values.iter().map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Returns the value of a metric for a process.
    ///
    /// # Panics
    /// As with [`Self::value`].
    pub fn of_process(&self, name: &str, pid: u32) -> Option<f64> {
        self.value(&format!("tcptrace_process_{name}"), &[("pid", &pid.to_string())])
    }
}

fn is_name(name: &str) -> bool {
    name.strip_prefix("tcptrace_")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')))
}

/// Parses `{name="value",…}` or nothing. Returns the labels and the rest.
fn parse_labels(text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Some((labels, text)) };
    loop {
        let (name, after) = rest.split_once("=\"")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return None;
        }
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (end, '"') => break end,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                (_, c) => value.push(c),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        rest = &after[end + 1..];
        match rest.split_at_checked(1)? {
            (",", more) => rest = more,
            ("}", after) => return Some((labels, after)),
            _ => return None,
        }
    }
}
