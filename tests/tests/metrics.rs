//! `--metrics`: it serves the true figures to everybody, at the given address and at no other.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "metrics that are counts"
)]

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tests::{
    Namespace, Puppet, Signal, Tracer, TracerCommand, monotonic_ns,
    process::poll_until,
    scene::Scene,
    scrape::{self, Page, ask, ask_again, scrape},
    witness,
};

const ANY_PORT: [&str; 2] = ["--metrics", "127.0.0.1:0"];
const CLOSE_WAIT: [(&str, &str); 1] = [("state", "CLOSE_WAIT")];

fn started(arguments: &[&str]) -> (Tracer, SocketAddr) {
    let tracer = Tracer::start(&[arguments, &ANY_PORT].concat());
    let at = tracer.await_metrics();
    (tracer, at)
}

/// Scrapes until the page satisfies a condition.
fn await_page<T>(at: SocketAddr, what: &str, mut look: impl FnMut(&Page) -> Option<T>) -> T {
    poll_until(what, || look(&scrape(at)))
}

fn limit_fds(pid: u32, soft: u64) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: Some(soft), maximum: Some(soft * 2) };
    prlimit(pid, Resource::Nofile, limit).expect("root may limit a process");
}

#[test]
fn what_is_stuck_is_told_by_state_and_by_process_and_falls_when_it_is_closed() {
    let mut scene = Scene::new();
    let (pid, leaks) = (scene.server.pid(), [(); 5].map(|()| scene.leak()));
    limit_fds(pid, 321);
    let (tracer, at) = started(&["--stuck", "300ms", "--pid", &pid.to_string()]);
    // What the filter keeps back.
    let mut other = Puppet::new();
    let other_listener = other.listen("127.0.0.1:0");
    let (client, _held) = other.pairs(&other_listener, 1)[0];
    other.close(&client);

    let stuck = |page: &Page| page.value("tcptrace_stuck_sockets", &CLOSE_WAIT).expect("it is watched");
    let page = await_page(at, "all of them", |page| {
        let filtered = page.value("tcptrace_filtered_records_total", &[]) > Some(0.0);
        (stuck(page) == 5.0 && filtered).then(|| page.clone())
    });
    let of_it = |name: &str| page.of_process(name, pid);
    assert_eq!((of_it("stuck_sockets"), of_it("open_fds")), (Some(5.0), Some(witness::open_fds(pid) as f64)));
    assert_eq!(of_it("max_fds"), Some(321.0));
    let most = (monotonic_ns() - leaks[0].not_before_ns) as f64 / 1e9;
    for oldest in [of_it("stuck_oldest_seconds"), page.value("tcptrace_stuck_oldest_seconds", &CLOSE_WAIT)] {
        assert!(oldest.is_some_and(|oldest| (0.3..=most).contains(&oldest)), "{oldest:?}, {most}");
    }
    assert_eq!(page.of_process("stuck_sockets", other.pid()), None, "it is filtered");
    let shown = &page.metric("tcptrace_process_stuck_sockets").values;
    let name = shown.iter().map(|(labels, _)| labels["comm"].as_str()).collect::<Vec<_>>();
    assert_eq!(name, ["puppet"]);
    assert_eq!(page.value("tcptrace_stuck_threshold_seconds", &[]), Some(0.3));
    // Filtered or not, this is how many there are; other tests may have some too.
    assert!(page.value("tcptrace_sockets", &CLOSE_WAIT) >= Some(6.0));

    for (left, leak) in (0..5).rev().zip(&leaks) {
        scene.server.close(&leak.socket);
        let page = scrape(at);
        if page.sum("tcptrace_lost_transitions_total") == Some(0.0) {
            assert_eq!(stuck(&page), f64::from(left), "a scrape tells of all that was before it");
        }
    }
    let page = await_page(at, "none", |page| (stuck(page) == 0.0).then(|| page.clone()));
    assert_eq!(page.value("tcptrace_stuck_oldest_seconds", &CLOSE_WAIT), None);
    assert_eq!(page.of_process("stuck_sockets", pid), None);
    let run = tracer.stop();
    for (name, event) in [("stuck", "stuck"), ("cleared", "cleared")] {
        let told = page.value(&format!("tcptrace_{name}_records_total"), &[]);
        assert_eq!((told, run.summary().int(event)), (Some(5.0), 5));
    }
    assert_eq!(run.stderr, format!("tcptrace: metrics at http://{at}/metrics\n"), "and nothing else");
}

/// The states whose sockets are counted.
fn states(page: &Page) -> BTreeSet<String> {
    page.metric("tcptrace_sockets").values.iter().map(|(labels, _)| labels["state"].clone()).collect()
}

#[test]
fn sockets_are_counted_in_every_state_that_is_followed_and_in_no_other() {
    const MANY: usize = 300;
    let _namespace = Namespace::new();
    let mut puppet = Puppet::new();
    limit_fds(puppet.pid(), 4_000);
    let listener = puppet.listen_with("127.0.0.1:0", 1_000, "");
    let (tracer, at) = started(&["--transitions"]);
    let (of_two, at_two) = started(&["--stuck", "1h", "--state", "fin-wait-2,close-wait"]);
    let (of_one, at_one) = started(&["--stuck", "1h"]);
    let all =
        ["CLOSE_WAIT", "CLOSING", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "LAST_ACK", "LISTEN", "SYN_SENT"];
    for (at, expected) in [(at, &all[..]), (at_two, &["CLOSE_WAIT", "FIN_WAIT2"]), (at_one, &["CLOSE_WAIT"])]
    {
        assert_eq!(states(&scrape(at)), expected.iter().map(|&state| state.to_owned()).collect());
    }
    let pairs = puppet.pairs(&listener, MANY);
    for (client, _) in &pairs[..MANY / 2] {
        puppet.shutdown(client);
    }
    let count =
        |page: &Page, state| page.value("tcptrace_sockets", &[("state", state)]).expect("followed") as usize;
    // Other tests may have some at the same time.
    for (at, state, least) in [
        (at, "ESTABLISHED", MANY),
        (at, "LISTEN", 1),
        (at, "FIN_WAIT2", MANY / 2),
        (at, "CLOSE_WAIT", MANY / 2),
        (at_two, "FIN_WAIT2", MANY / 2),
        (at_two, "CLOSE_WAIT", MANY / 2),
        (at_one, "CLOSE_WAIT", MANY / 2),
    ] {
        await_page(at, &format!("{least} in {state}"), |page| (count(page, state) >= least).then_some(()));
    }
    // Each that was opened and accepted went through CLOSE, SYN_SENT, ESTABLISHED; LISTEN,
    // SYN_RECV, ESTABLISHED.
    let page = scrape(at);
    let total = |name: &str| page.sum(&format!("tcptrace_{name}_total")).expect("it is served");
    assert!(total("transitions") + total("lost_transitions") >= 4.0 * MANY as f64);

    puppet.close_all(&pairs.iter().flat_map(|(client, server)| [*client, *server]).collect::<Vec<_>>());
    for at in [at, at_two, at_one] {
        await_page(at, "all closed", |page| (count(page, "CLOSE_WAIT") < MANY / 2).then_some(()));
    }
    await_page(at, "all closed", |page| (count(page, "ESTABLISHED") < MANY).then_some(()));
    let run = tracer.stop();
    assert!(run.summary().int("transitions") as f64 >= total("transitions"));
    of_two.stop();
    of_one.stop();
}

#[test]
fn sockets_from_before_the_start_are_counted() {
    let mut scene = Scene::new();
    let (client, _server) = scene.connection();
    let leak = scene.leak();
    let (tracer, at) = started(&["--lives"]);
    let page = scrape(at);
    for (state, least) in [("ESTABLISHED", 2.0), ("CLOSE_WAIT", 1.0), ("LISTEN", 1.0)] {
        assert!(page.value("tcptrace_sockets", &[("state", state)]) >= Some(least), "{state}");
    }
    assert!(!page.0.keys().any(|name| name.contains("stuck")), "what --stuck tells: {:?}", page.0.keys());
    scene.client.close(&client);
    scene.server.close(&leak.socket);
    tracer.await_life(&leak.socket);
    let lives = scrape(at).value("tcptrace_life_records_total", &[]);
    assert!(lives >= Some(1.0), "{lives:?}");
    tracer.stop();
}

#[test]
fn a_leak_that_goes_on_gives_every_metric_a_value_and_the_document_explains_each() {
    const EVERY_NS: u64 = 250_000_000;
    const DOCUMENT: &str = include_str!("../../docs/metrics.md");
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    // So few that they run out within a minute: that is said before a minute has been watched.
    limit_fds(pid, witness::open_fds(pid) + 250);
    let (tracer, at) = started(&["--stuck", "100ms", "--lives"]);
    let (begin_ns, mut leaked) = (monotonic_ns(), 0);
    let page = poll_until("a time to the last descriptor", || {
        if monotonic_ns() < begin_ns + leaked * EVERY_NS {
            return None;
        }
        scene.leak();
        leaked += 1;
        let page = scrape(at);
        page.of_process("fds_full_seconds", pid).is_some().then_some(page)
    });
    let of_it = |name| page.of_process(name, pid).unwrap_or_else(|| panic!("no {name}: {page:?}"));
    let per_minute = leaked as f64 * 60e9 / (monotonic_ns() - begin_ns) as f64;
    for growth in ["stuck_growth_per_minute", "fds_growth_per_minute"] {
        assert!((of_it(growth) / per_minute - 1.0).abs() < 0.25, "not {per_minute}: {page:?}");
    }
    let seconds = (of_it("max_fds") - of_it("open_fds")) / (of_it("fds_growth_per_minute") / 60.0);
    assert!((of_it("fds_full_seconds") - seconds).abs() < seconds * 0.1, "{seconds}: {page:?}");
    tracer.stop();

    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `tcptrace_"));
    let documented: BTreeSet<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            assert!(cells.len() == 7 && !cells[5].is_empty(), "{row}");
            let labels: BTreeSet<_> =
                cells[3].split(", ").filter(|name| !name.is_empty()).map(unquoted).collect();
            (unquoted(cells[1]), cells[2].to_owned(), labels)
        })
        .collect();
    let served: BTreeSet<_> = page
        .0
        .iter()
        .map(|(name, metric)| {
            let (labels, _) = metric.values.first().unwrap_or_else(|| panic!("no value of {name}"));
            assert!(metric.values.iter().all(|(other, _)| other.keys().eq(labels.keys())), "{metric:?}");
            (name.clone(), metric.kind.clone(), labels.keys().cloned().collect())
        })
        .collect();
    assert_eq!(documented, served);
}

/// Returns the texts between a document's backticks.
fn unquoted(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

#[test]
fn no_name_of_a_process_breaks_the_page() {
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    scene.leak();
    let (tracer, at) = started(&["--stuck", "100ms"]);
    await_page(at, "its process", |page| page.of_process("stuck_sockets", pid));
    for (name, shown) in [
        (&b"a\"b\\c\nd"[..], r#"a"b\\c\u{a}d"#),
        (b"x\"} 1\nforge", r#"x"} 1\u{a}forge"#),
        (b"\x1b[2J\r\t\x7f", r"\u{1b}[2J\u{d}\u{9}\u{7f}"),
        (b"\xff\xfe\x80bad", r"\xff\xfe\x80bad"),
        ("\u{202e}evil".as_bytes(), r"\u{202e}evil"),
        ("\u{65e5}\u{672c}\u{8a9e}".as_bytes(), "\u{65e5}\u{672c}\u{8a9e}"),
        (b"\\", r"\\"),
        (b"puppet", "puppet"),
    ] {
        scene.server.rename(name);
        let page = scrape(at);
        let values = &page.metric("tcptrace_process_stuck_sockets").values;
        let its = values.iter().find(|(labels, _)| labels["pid"] == pid.to_string()).expect("still stuck");
        assert_eq!(its.0["comm"], shown);
    }
    tracer.stop();
}

#[test]
fn of_very_many_processes_those_with_the_most_are_told_and_the_others_counted() {
    const MOST: usize = 100;
    const CHILDREN: usize = 110;
    let mut scene = Scene::new();
    let name = format!("crowd-{}", std::process::id());
    scene.server.rename(name.as_bytes());
    scene.leak();
    for _ in 0..CHILDREN {
        scene.server.fork();
    }
    // Which no child has.
    scene.leak();
    let (tracer, at) = started(&["--stuck", "100ms", "--comm", &name]);
    let page = await_page(at, "all of them", |page| {
        (page.of_process("stuck_sockets", scene.server.pid()) == Some(2.0)).then(|| page.clone())
    });
    assert_eq!(page.metric("tcptrace_process_stuck_sockets").values.len(), MOST);
    assert_eq!(page.value("tcptrace_processes_not_shown", &[]), Some((CHILDREN + 1 - MOST) as f64));
    assert_eq!(page.value("tcptrace_stuck_sockets", &CLOSE_WAIT), Some(2.0), "each is one socket");
    tracer.stop();
}

#[test]
fn it_listens_where_it_was_told_to_and_nowhere_else() {
    let namespace = Namespace::new();
    let tracer = Tracer::start(&["--stuck", "1h"]);
    assert!(witness::all().is_empty(), "without --metrics: {:?}", witness::all());
    tracer.stop();
    for (address, others) in [
        ("127.0.0.1:80", &["127.0.0.2", "[::1]"][..]),
        ("127.0.0.2:0", &["127.0.0.1", "[::1]"]),
        ("[::1]:0", &["127.0.0.1"]),
        ("0.0.0.0:0", &["[::1]"]),
        ("[::]:0", &["127.0.0.1"]),
    ] {
        let tracer = Tracer::start(&["--stuck", "1h", "--metrics", address]);
        let at = tracer.await_metrics();
        let asked: SocketAddr = address.parse().expect("an address");
        assert!(at.ip() == asked.ip() && at.port() != 0 && [0, at.port()].contains(&asked.port()), "{at}");
        // An address before this one may have left a connection in TIME-WAIT.
        let mut open = witness::all();
        open.retain(|seen| seen.state != "TIME-WAIT");
        let seen: Vec<_> = open.iter().map(|seen| (seen.state.as_str(), seen.local)).collect();
        assert_eq!(seen, [("LISTEN", at)]);
        assert!(matches!(open[0].holders[..], [(pid, _)] if pid == tracer.pid()), "{open:?}");
        let others_kinds = Command::new("ss").args(["-uwaH"]).output().expect("ss (iproute2)");
        assert_eq!(String::from_utf8_lossy(&others_kinds.stdout), "", "neither UDP nor raw");
        for other in others {
            let to: SocketAddr = format!("{other}:{}", at.port()).parse().expect("an address");
            let refused = TcpStream::connect(to).expect_err("it is not what was asked for");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
        }
        let local =
            if at.ip().is_unspecified() { if at.is_ipv4() { "127.0.0.1" } else { "[::1]" } } else { "" };
        scrape(if local.is_empty() {
            at
        } else {
            format!("{local}:{}", at.port()).parse().expect("an address")
        });
        tracer.stop();
    }
    drop(namespace);
}

#[test]
fn what_cannot_be_listened_at_is_told_at_once_and_a_wrong_address_with_what_is_right() {
    let _namespace = Namespace::new();
    let (first, at) = started(&["--stuck", "1h"]);
    let in_use = at.to_string();
    for (address, words) in [(&in_use[..], "Address already in use"), ("192.0.2.1:9777", "Cannot assign")] {
        let run = TracerCommand::new(&["--stuck", "1h", "--metrics", address]).run();
        assert_eq!((run.status.code(), run.lines.len()), (Some(4), 0), "{}", run.stderr);
        let said = format!("tcptrace: cannot serve metrics at {address}: {words}");
        assert!(run.stderr.starts_with(&said) && run.stderr.lines().count() == 1, "{}", run.stderr);
    }
    first.stop();
    for (arguments, words) in [
        (&["--metrics", "9777"][..], "127.0.0.1:9777"),
        (&["--metrics", ":9777"], "127.0.0.1:9777"),
        (&["--metrics", "localhost:9777"], "an address and a port"),
        (&["--metrics", "127.0.0.1"], "an address and a port"),
        (&["--metrics"], "--metrics"),
        (&["--stuck", "30s", "--once", "--metrics", "127.0.0.1:0"], "--once"),
        (&["--replay", "/dev/null", "--metrics", "127.0.0.1:0"], "--replay"),
    ] {
        let run = TracerCommand::new(arguments).run();
        assert_eq!((run.status.code(), run.lines.len()), (Some(2), 0), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{arguments:?} said nothing of {words}: {}", run.stderr);
    }
}

#[test]
fn a_run_can_follow_another_at_the_same_address_at_once() {
    let _namespace = Namespace::new();
    let (first, at) = started(&["--stuck", "1h"]);
    // Whose end in TIME_WAIT is the tracer's, which closed first.
    assert_eq!(ask(at, "GET /").status, 200);
    poll_until("TIME-WAIT", || {
        witness::all().iter().any(|seen| seen.state == "TIME-WAIT" && seen.local == at).then_some(())
    });
    first.stop();
    assert!(TcpStream::connect(at).is_err(), "nobody is there any more");
    let second = Tracer::start(&["--stuck", "1h", "--metrics", &at.to_string()]);
    assert_eq!(second.await_metrics(), at);
    scrape(at);
    second.stop();
}

#[test]
fn only_what_is_there_is_answered() {
    let _namespace = Namespace::new();
    let (tracer, at) = started(&["--stuck", "1h"]);
    for (request, status) in [
        ("GET /", 200),
        ("HEAD /metrics", 200),
        ("GET /metrics?x=y", 200),
        ("GET /metrics/", 404),
        ("GET /etc/passwd", 404),
        ("GET /../metrics", 404),
        ("POST /metrics", 405),
        ("DELETE /", 405),
    ] {
        let answer = ask(at, request);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert!(answer.headers["content-type"].starts_with("text/plain"), "{request}: {answer:?}");
        if status == 405 {
            assert_eq!(answer.headers["allow"], "GET, HEAD");
        } else if !request.ends_with("cs") && !request.contains('?') {
            assert!(answer.body.contains("/metrics"), "it says where they are: {answer:?}");
        }
    }
    // As a scraper does between its scrapes.
    let mut stream = scrape::connect(at);
    for _ in 0..3 {
        ask_again(&mut stream);
    }
    tracer.stop();
}

#[test]
fn clients_that_say_nothing_or_nonsense_or_never_read_keep_nobody_from_anything() {
    const AT_ONCE: usize = 16;
    let mut scene = Scene::new();
    let (tracer, at) = started(&["--stuck", "200ms"]);

    let mut deaf = scrape::connect(at);
    deaf.set_nonblocking(true).expect("a socket can be non-blocking");
    let asking = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let mut asked = 0;
    // Until neither side takes any more; the kernel's buffers are some megabytes.
    let mut full = 0;
    poll_until("a client whose answers nobody reads to be left to itself", || {
        match deaf.write(&asking) {
            Ok(length) => (asked, full) = (asked + length, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "after {asked} bytes");
                full += 1;
            }
        }
        (full >= 20).then_some(())
    });
    #[expect(clippy::large_stack_arrays, reason = "the request of a client that does not stop")]
    let long = [&b"GET /metrics HTTP/1.1\r\nX: "[..], &[b'x'; 100_000]].concat();
    let nonsense: [&[u8]; 5] =
        [b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n\r\n", b"\0\0\0\r\n\r\n", b"GET\r\n\r\n", &long];
    let mut clients: Vec<_> = nonsense
        .iter()
        .map(|said| {
            let mut stream = scrape::connect(at);
            // It may have been refused before all was said.
            let _all_said = stream.write_all(said);
            stream
        })
        .collect();
    let silent: Vec<_> = (0..3 * AT_ONCE).map(|_| scrape::connect(at)).collect();
    clients.extend(silent);

    let leak = scene.leak();
    tracer.await_stuck(&leak.socket);
    await_page(at, "the leak", |page| page.of_process("stuck_sockets", scene.server.pid()));
    // Those that are too many were left, the oldest first.
    for client in &mut clients[..2 * AT_ONCE] {
        let mut taken = Vec::new();
        if let Err(error) = client.read_to_end(&mut taken) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert!(!taken.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&taken));
    }
    let open = || witness::all().iter().filter(|seen| seen.local == at && !seen.holders.is_empty()).count();
    poll_until("no more than so many connections", || (open() <= AT_ONCE + 1).then_some(()));
    scene.server.close(&leak.socket);
    tracer.await_cleared(&leak.socket);
    scrape(at);
    tracer.stop();
}

#[test]
fn what_is_lost_and_what_is_dropped_is_counted_also_while_nobody_reads_the_records() {
    let _namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let arguments = ["--transitions", "--json", "--ring-size", "4096", "--queue-size", "4096"];
    let tracer = TracerCommand::new(&[&arguments[..], &ANY_PORT].concat()).held().start();
    tracer.await_record("the start", |record| record.is("start"));
    let at = tracer.await_metrics();
    tracer.signal(Signal::STOP);
    puppet.churn(&listener, 100);
    tracer.signal(Signal::CONT);
    let counted = |page: &Page, name: &str| page.sum(&format!("tcptrace_{name}_total")).expect("served");
    await_page(at, "a loss", |page| {
        (counted(page, "lost_transitions") > 0.0 && counted(page, "resyncs") > 0.0).then_some(())
    });
    // A pipe takes what 64 KiB hold.
    let page = poll_until("records dropped", || {
        puppet.churn(&listener, 10);
        let page = scrape(at);
        (counted(&page, "dropped_records") > 0.0).then_some(page)
    });
    tracer.read_on();
    let run = tracer.stop();
    for (name, total) in
        [("lost_transitions", "lost"), ("resyncs", "resyncs"), ("dropped_records", "dropped")]
    {
        let told = run.summary().int(total) as f64;
        assert!(told >= counted(&page, name), "{name}: {page:?}, {:?}", run.summary());
    }
}

#[test]
fn an_idle_tracer_is_not_woken_by_serving_metrics() {
    let _namespace = Namespace::new();
    // States that hardly any socket goes through.
    let (tracer, at) = started(&["--stuck", "1h", "--state", "closing"]);
    let mut stream = scrape::connect(at);
    ask_again(&mut stream);
    let status = format!("/proc/{0}/task/{0}/status", tracer.pid());
    let switches = || -> u64 {
        let status = std::fs::read_to_string(&status).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse().ok()).expect("a count")
    };
    // Three seconds in a row: what is done every second, or more often, is seen.
    let (mut before, mut since_ns) = (switches(), monotonic_ns());
    poll_until("three seconds without a wake-up", || {
        let now = switches();
        if now != before {
            (before, since_ns) = (now, monotonic_ns());
        }
        (monotonic_ns() - since_ns >= 3_000_000_000).then_some(())
    });
    ask_again(&mut stream);
    // It is counted when it goes to sleep again.
    poll_until("a scrape to be seen by that", || (switches() > before).then_some(()));
    tracer.stop();
}
