//! The case that tcptrace was written for: a client that leaks its connection when the answer is
//! an error. Hundreds of sockets are in CLOSE_WAIT: which process holds them, by which
//! descriptors, and why?

use std::{
    io::{BufRead as _, BufReader},
    process::{ChildStdin, Command, Stdio},
};

use tests::{Namespace, Process, Tracer, process::own_program, witness};

const REQUESTS: usize = 25;

/// The server, and the address at which it listens.
fn server(status: &str) -> (Process, String) {
    let mut command = Command::new(own_program("closing-server"));
    let mut server = Process::spawn(command.args(["127.0.0.1:0", status]).stdout(Stdio::piped()));
    let mut address = String::new();
    let (_, stdout, _) = server.pipes();
    BufReader::new(stdout.expect("piped")).read_line(&mut address).expect("it says where it listens");
    (server, address.trim_end().to_owned())
}

/// The client, after all its requests. It lives as long as its stdin is open.
fn client(address: &str) -> (Process, ChildStdin) {
    let mut command = Command::new(own_program("leaky-client"));
    command.args([address, "5", &REQUESTS.to_string()]).stderr(Stdio::null());
    let mut client = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let (stdin, stdout, _) = client.pipes();
    let lines = BufReader::new(stdout.expect("piped")).lines().map_while(Result::ok);
    let last = lines.into_iter().find(|line| line.contains("requests made"));
    assert!(last.is_some(), "the client ended early");
    (client, stdin.expect("piped"))
}

#[test]
fn every_connection_that_the_client_leaks_is_reported_with_its_descriptor() {
    let namespace = Namespace::new();
    let tracer = Tracer::start(&["--stuck", "200ms"]);
    let (server, address) = server("500");
    let (client, _stdin) = client(&address);
    let netns = namespace.inode();
    let reports = tracer.await_records("all of them", |records| {
        let reports: Vec<_> =
            records.iter().filter(|record| record.is("stuck") && record.is_in(netns)).cloned().collect();
        (reports.len() >= REQUESTS).then_some(reports)
    });
    let seen = witness::all();
    let leaked: Vec<_> = seen.iter().filter(|seen| seen.state == "CLOSE-WAIT").collect();
    assert_eq!((leaked.len(), reports.len()), (REQUESTS, REQUESTS));
    let mut fds = Vec::new();
    for report in &reports {
        assert_eq!(report.remote().to_string(), address, "it is the client's end that leaks: {report:?}");
        let seen = leaked.iter().find(|seen| seen.local == report.local());
        let holders = seen.unwrap_or_else(|| panic!("ss does not show {report:?}")).holders.clone();
        assert_eq!(report.holders(), holders);
        assert_eq!(holders[0].0, client.pid());
        assert_eq!(report.get("owners")[0]["comm"], "leaky-client");
        // Who connected it was seen too.
        let origin = report.get("origin");
        if !origin.is_null() {
            assert_eq!(
                (&origin["pid"], &origin["how"]),
                (&client.pid().into(), &"connect".into()),
                "{report:?}"
            );
        }
        fds.push(holders[0].1);
    }
    fds.sort_unstable();
    assert_eq!(fds, witness::socket_fds(client.pid()));
    drop(server);
}

#[test]
fn nothing_is_reported_of_the_same_client_when_the_answers_are_good() {
    let namespace = Namespace::new();
    let tracer = Tracer::start(&["--stuck", "200ms"]);
    let (_server, address) = server("200");
    let (_client, _stdin) = client(&address);
    assert!(witness::all().iter().all(|seen| seen.state != "CLOSE-WAIT"));
    // A leak that begins later and is reported: had there been one before, it would have been too.
    let mut scene = tests::scene::Scene::new();
    let leak = scene.leak();
    tracer.await_stuck(&leak.socket);
    let run = tracer.stop();
    assert_eq!(run.records_in(namespace.inode()).iter().find(|record| record.is("stuck")), None);
}
