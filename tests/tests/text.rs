//! Text for people: a heading and aligned columns, within a terminal's width; colour only on
//! terminals.

use std::process::Command;

use tests::{
    Namespace, Puppet, Sock, Tracer, TracerCommand, feature, monotonic_ns, process::poll_until, scene::Scene,
    terminal,
};

const COLOUR: char = '\x1b';

/// Starts the tracer with text on a terminal with this many columns.
fn on_a_terminal(columns: u16, arguments: &[&str]) -> TracerCommand {
    let (theirs, ours) = terminal::open(columns);
    let mut command = TracerCommand::new(arguments).stdout(theirs, ours);
    command.command.env("TERM", "xterm");
    command
}

fn start(command: TracerCommand) -> Tracer {
    let tracer = command.start();
    tracer.await_stderr("watching");
    tracer
}

/// Returns the characters of a line without its colours.
fn plain(line: &str) -> String {
    let mut parts = line.split(COLOUR);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Returns the text of a line from where `column` begins in the heading.
fn below<'a>(heading: &str, column: &str, line: &'a str) -> &'a str {
    let at = heading.find(column).unwrap_or_else(|| panic!("no column {column}: {heading}"));
    line.get(at..).unwrap_or_else(|| panic!("nothing below {column}: {line}"))
}

/// Asserts that a line begins with a time of day, as every record's does.
fn begins_with_a_time(line: &str) -> bool {
    line.len() > 8
        && line
            .bytes()
            .zip(b"00:00:00")
            .all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form })
}

#[test]
fn a_pipe_gets_a_heading_and_aligned_columns_without_colour() {
    let mut scene = Scene::new();
    let tracer = start(TracerCommand::new(&["--stuck", "200ms"]));
    let leak = scene.leak();
    let Sock { pid, fd, local, remote, .. } = leak.socket;
    let (local, remote) = (local.to_string(), remote.expect("connected").to_string());
    let stuck = tracer.await_line("the leak", |line| line.contains(&local) && line.contains("not closed"));
    scene.server.close(&leak.socket);
    let cleared = tracer.await_line("its end", |line| line.contains(&local) && line.contains("cleared"));
    let run = tracer.stop();

    let heading = run.heading();
    let place = |wanted: &str| run.lines.iter().position(|line| line == wanted);
    assert!(place(heading) < place(&stuck), "{:?}", run.lines);
    for (column, text) in [
        ("PROCESS/PID", &format!("puppet/{pid} ")),
        ("LOCAL", &format!("{local} ")),
        ("REMOTE", &format!("{remote} ")),
        ("WHY", &"not closed".to_owned()),
    ] {
        assert!(below(heading, column, &stuck).starts_with(text), "{column}:\n{heading}\n{stuck}");
    }
    let fd_ends_at = heading.find("FD").expect("a column") + 2;
    assert!(stuck[..fd_ends_at].ends_with(&format!(" {fd}")), "{heading}\n{stuck}");
    for (column, text) in [
        ("AGE", "cleared "),
        ("PROCESS/PID", &format!("puppet/{pid} ")),
        ("LOCAL", &format!("{local} ")),
        ("REMOTE", &format!("{remote} ")),
    ] {
        assert!(below(heading, column, &cleared).starts_with(text), "{column}:\n{heading}\n{cleared}");
    }
    let with_colour: Vec<_> = run.lines.iter().filter(|line| line.contains(COLOUR)).collect();
    assert!(with_colour.is_empty(), "{with_colour:?}");
}

#[test]
fn transitions_are_aligned_under_their_heading() {
    let mut scene = Scene::new();
    let tracer = start(TracerCommand::new(&["--transitions"]));
    let leak = scene.leak();
    let (local, remote) = (leak.socket.local.to_string(), leak.socket.remote.expect("connected").to_string());
    let is_it = |line: &str| line.contains(&format!("{local} ")) && line.contains(" CLOSE-WAIT");
    let line = tracer.await_line("its transition", is_it);
    let run = tracer.stop();
    let heading = run.heading();
    for (column, text) in [("LOCAL", &local), ("REMOTE", &remote)] {
        assert!(below(heading, column, &line).starts_with(&format!("{text} ")), "{heading}\n{line}");
    }
    for (column, text) in [("OLD", "ESTAB "), ("NEW", "CLOSE-WAIT ")] {
        assert!(below(heading, column, &line).starts_with(text), "{heading}\n{line}");
    }
}

#[test]
fn an_80_column_terminal_holds_every_ipv4_record_in_a_line() {
    // The longest addresses that a loopback has, and more than one holder.
    let tracer = start(on_a_terminal(80, &["--transitions", "--stuck", "200ms"]));
    let namespace = Namespace::new();
    let mut puppet = Puppet::new();
    puppet.rename(b"fifteen-letters");
    let listener = puppet.listen("127.127.127.127:65535");
    let (client, server) = puppet.pairs(&listener, 1)[0];
    puppet.close(&server);
    puppet.read_to_the_end(&client);
    puppet.dup(&client);
    let port = client.local.port().to_string();
    let stuck = tracer.await_line("the leak", |line| line.contains(&port) && line.contains("not closed"));
    let unaccepted = puppet.connect(listener.local);
    let unaccepted_port = unaccepted.local.port().to_string();
    puppet.close(&unaccepted);
    tracer.await_line("one not accepted", |line| {
        line.contains(&unaccepted_port) && line.contains("not accepted")
    });
    drop(puppet);
    tracer.await_line("its end", |line| line.contains(&port) && line.contains("cleared"));
    let run = tracer.stop();
    let too_long: Vec<_> = run
        .lines
        .iter()
        .map(|line| plain(line))
        .filter(|line| line.contains("127.127.127.127") || line.contains("TIME"))
        .filter(|line| line.chars().count() > 80)
        .collect();
    assert!(too_long.is_empty(), "wider than 80 columns:\n{}", too_long.join("\n"));
    assert!(plain(&stuck).contains("127.127.127.127:65535"), "an address is cut: {stuck}");
    drop(namespace);
}

#[test]
fn colour_is_for_terminals() {
    for (name, value, expected) in [
        ("NO_COLOR", "", true),
        ("NO_COLOR", "1", false),
        ("TERM", "xterm-256color", true),
        ("TERM", "dumb", false),
        ("TERM", "", false),
    ] {
        let mut scene = Scene::new();
        let mut command = on_a_terminal(120, &["--stuck", "200ms"]);
        command.command.env_remove("NO_COLOR").env(name, value);
        let tracer = start(command);
        let leak = scene.leak();
        let local = leak.socket.local.to_string();
        tracer.await_line("the leak", |line| line.contains(&local) && line.contains("not closed"));
        let run = tracer.stop();
        assert!(run.lines.len() >= 2);
        let is_coloured = run.lines.iter().any(|line| line.contains(COLOUR));
        assert_eq!(is_coloured, expected, "{name}={value:?}: {:?}", run.lines);
    }
}

#[test]
fn a_terminal_that_is_resized_is_asked_for_its_width() {
    let mut scene = Scene::new();
    let (theirs, ours) = terminal::open(80);
    let resized = theirs.try_clone().expect("a descriptor");
    let tracer = start(TracerCommand::new(&["--stuck", "200ms"]).stdout(theirs, ours));
    let mut line_at = |columns| {
        terminal::resize(&resized, columns);
        let leak = scene.leak();
        let port = leak.socket.remote.expect("connected").port().to_string();
        let line = tracer.await_line("the leak", |line| line.contains(&port) && line.contains("not closed"));
        (plain(&line), scene.address().to_string())
    };
    let (narrow, _) = line_at(80);
    let (wide, local) = line_at(200);
    let (narrow_again, _) = line_at(80);
    drop(resized);
    let run = tracer.stop();
    assert!(wide.contains(&format!(" {local} ")) && wide.contains("all read"), "{wide}");
    for line in [narrow, narrow_again] {
        assert!(line.chars().count() <= 80 && !line.contains(&local), "{line}");
    }
    let is_heading = |line: &String| line.starts_with("TIME");
    let headings: Vec<_> = run.lines.iter().map(|line| plain(line)).filter(is_heading).collect();
    assert!(
        headings.len() >= 3 && headings[0].contains("LPORT") && headings[1].contains("LOCAL"),
        "{headings:?}"
    );
}

#[test]
fn hostile_process_names_cannot_forge_a_line_or_move_the_cursor() {
    const NAMES: [&[u8]; 7] = [
        b"\x1b[31mred\x1b[0m",
        b"a\n12:00:00 1s",
        b"a\rb\tc\x08d",
        b"\xff\xfe\x80bad",
        "\u{202e}evil\u{2066}".as_bytes(),
        b"\x01\x02\x7f\x1f",
        "\u{9b}31m\u{2028}x".as_bytes(),
    ];
    let mut scene = Scene::new();
    let tracer = start(TracerCommand::new(&["--stuck", "100ms", "--transitions"]));
    let mut ends = Vec::new();
    for name in NAMES {
        scene.server.rename(name);
        let leak = scene.leak();
        let remote = leak.socket.remote.expect("connected").to_string();
        tracer.await_line("the leak", |line| line.contains(&remote) && line.contains("not closed"));
        scene.server.close(&leak.socket);
        tracer.await_line("its end", |line| line.contains(&remote) && line.contains("cleared"));
        tracer.await_line("its close", |line| line.contains(&remote) && line.contains("LAST-ACK   CLOSED"));
        ends.push(remote);
    }
    let run = tracer.stop();
    for line in &run.lines {
        let bad = |c: char| {
            c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{fffd}')
        };
        assert!(!line.chars().any(bad), "{line:?}");
        assert!(begins_with_a_time(line) || line.starts_with("TIME"), "no record: {line:?}");
    }
    for remote in &ends {
        // The server's end: 5 transitions, stuck, cleared; the client's: 4 with a local port.
        let local = scene.address().to_string();
        let server = run.lines.iter().filter(|line| {
            // In other namespaces, others may use one of the two.
            let words = || line.split_ascii_whitespace();
            let place = |end: &str| words().position(|word| word == end);
            place(&local).zip(place(remote)).is_some_and(|(local, remote)| local < remote)
        });
        assert_eq!(server.count(), 7, "{remote}: {:?}", run.lines);
    }
}

#[test]
fn stderr_says_at_the_start_what_is_watched_and_at_the_end_what_was_seen() {
    let mut scene = Scene::new();
    let tracer = start(TracerCommand::new(&["--stuck", "100ms"]));
    let leak = scene.leak();
    let local = leak.socket.local.to_string();
    tracer.await_line("the leak", |line| line.contains(&local));
    let run = tracer.stop();
    // On a kernel that lacks something, each such feature has its line in between.
    let lacks = |line: &&str| line.starts_with("tcptrace: without ");
    let (without, said): (Vec<&str>, Vec<&str>) = run.stderr.lines().partition(lacks);
    assert_eq!((without.len(), said.len()), (feature::missing(), 2), "{}", run.stderr);
    for words in ["CLOSE-WAIT", "100ms", "namespace"] {
        assert!(said[0].contains(words), "nothing of {words}: {said:?}");
    }
    assert!(said[1].contains("stuck"), "{said:?}");
}

#[test]
fn sockets_that_workers_share_are_counted_once_in_one_line() {
    // Few enough for a record to list all of them.
    const WORKERS: usize = 12;
    let mut scene = Scene::new();
    let leaks = [(); 3].map(|()| scene.leak().socket);
    let again = scene.server.dup(&leaks[2]);
    let workers = [(); WORKERS].map(|()| scene.server.fork());
    let pid = scene.server.pid();
    let first = workers.into_iter().chain([pid]).min().expect("one");
    let tracer = start(on_a_terminal(80, &["--stuck", "300ms"]));
    let rolled_up = format!("puppet/{first} and {WORKERS} more: 3 stuck, shared");
    tracer.await_line("the roll-up", |line| plain(line).contains(&rolled_up));
    let asked = start(TracerCommand::new(&["--stuck", "300ms", "--pid", &workers[7].to_string()]));
    let names_it = format!("puppet/{}+{WORKERS} ", workers[7]);
    asked.await_line("the worker that was asked for", |line| line.contains(&names_it));
    let run = tracer.stop();
    let lines: Vec<String> = run.lines.iter().map(|line| plain(line)).collect();
    for leak in &leaks {
        let fd =
            if leak.fd == leaks[2].fd { format!("{}+1", leak.fd.min(again.fd)) } else { leak.fd.to_string() };
        let remote = leak.remote.expect("connected").to_string();
        let line = lines.iter().find(|line| line.contains(&remote)).expect("its line");
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        // A name is cut where a pid is long.
        assert!(words[2].ends_with(&format!("/{first}+{WORKERS}")), "{line}");
        assert_eq!(words[3], fd, "{line}");
    }
    // Their first roll-up, and the one at the end. Other tests have puppets of their own.
    let holders = [&workers[..], &[pid]].concat();
    let is_theirs = |line: &&String| holders.iter().any(|pid| line.contains(&format!("puppet/{pid} ")));
    let of_processes = lines.iter().filter(|line| line.contains(" stuck, ")).filter(is_theirs);
    assert!((1..=2).contains(&of_processes.count()), "{lines:?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
}

#[test]
fn a_link_local_address_tells_its_interface_by_name_where_that_is_ours() {
    let outside = start(TracerCommand::new(&["--stuck", "200ms"]));
    let namespace = Namespace::new();
    let arguments = "address add fe80::7/64 dev lo nodad".split(' ');
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) is there");
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return feature::tell_not_run(
            "a_link_local_address_tells_its_interface_by_name_where_that_is_ours",
            "IPv6",
            why.trim_end(),
        );
    }
    let inside = start(TracerCommand::new(&["--stuck", "200ms"]));
    let records = Tracer::start(&["--stuck", "200ms"]);
    let mut puppet = Puppet::new();
    let listener = puppet.listen("[fe80::7%1]:0");
    let (client, server) = puppet.pairs(&listener, 1)[0];
    puppet.close(&client);
    let (here, there) = (server.local.port(), client.local.port());
    for (tracer, zone) in [(&inside, "lo"), (&outside, "1")] {
        let ends = [here, there].map(|port| format!("[fe80::7%{zone}]:{port} "));
        tracer.await_line("both ends", |line| {
            line.contains("EOF unread") && ends.iter().all(|end| line.contains(end))
        });
    }
    let netns = namespace.inode();
    let stuck = records.await_records("its record", |records| {
        records.iter().find(|record| record.is("stuck") && record.is_in(netns)).cloned()
    });
    assert_eq!((stuck.text("local_addr"), stuck.int("interface")), ("fe80::7", 1));
    assert_eq!((stuck.int("local_port"), stuck.int("remote_port")), (here.into(), there.into()));
    drop(puppet);
}

#[test]
fn hundreds_of_leaks_are_a_line_for_each_service_and_one_for_the_process() {
    if feature::is_missing(
        feature::TP_BTF,
        "hundreds_of_leaks_are_a_line_for_each_service_and_one_for_the_process",
    ) {
        return;
    }
    const SERVED: [usize; 2] = [200, 100];
    const DEPENDED_ON: usize = 50;
    let namespace = Namespace::new();
    let (mut leaky, mut other) = (Puppet::new(), Puppet::new());
    let mut ports = Vec::new();
    for count in SERVED {
        let listener = leaky.listen("127.0.0.1:0");
        for (client, _) in leaky.pairs(&listener, count) {
            leaky.close(&client);
        }
        ports.push(listener.local.port());
    }
    let service = other.listen("127.0.0.2:0");
    for _ in 0..DEPENDED_ON {
        leaky.connect(service.local);
        let accepted = other.accept(&service);
        other.close(&accepted);
    }
    let old_enough_ns = monotonic_ns() + 400_000_000;
    poll_until("them to be stuck", || (monotonic_ns() >= old_enough_ns).then_some(()));

    let tracer = start(on_a_terminal(80, &["--stuck", "300ms"]));
    let pid = leaky.pid();
    let rolled_up = format!("puppet/{pid}: {} stuck, ", SERVED.iter().sum::<usize>() + DEPENDED_ON);
    tracer.await_line("the roll-up", |line| plain(line).contains(&rolled_up));
    leaky.kill();
    tracer.await_line("its end", |line| plain(line).contains(&format!("puppet/{pid}: ended, 0 stuck")));
    let run = tracer.stop();
    let who = format!(" puppet/{pid} ");
    let lines: Vec<String> = run.lines.iter().map(|line| plain(line)).collect();
    let (cleared, stuck): (Vec<&String>, Vec<_>) =
        lines.iter().filter(|line| line.contains(&who)).partition(|line| line.contains("cleared"));
    let heading = lines.iter().find(|line| line.starts_with("TIME")).expect("a heading");
    let mut shown: Vec<_> = stuck
        .iter()
        .map(|line| {
            // Columns are counted in characters, and `×` is one that is longer than a byte.
            let line = line.replace('×', "x");
            let words =
                |column| below(heading, column, &line).split_ascii_whitespace().next().map(str::to_owned);
            let fd = line[..heading.find("FD").expect("a column") + 2].rsplit(' ').next().map(str::to_owned);
            let port =
                line[..heading.find("LPORT").expect("a column") + 5].rsplit(' ').next().map(str::to_owned);
            (fd.expect("a word"), port.expect("a word"), words("REMOTE").expect("a word"))
        })
        .collect();
    shown.sort();
    let mut expected = [
        ("x200".to_owned(), ports[0].to_string(), "127.0.0.1:*".to_owned()),
        ("x100".to_owned(), ports[1].to_string(), "127.0.0.1:*".to_owned()),
        ("x50".to_owned(), "*".to_owned(), service.local.to_string()),
    ];
    expected.sort();
    assert_eq!(shown, expected, "{lines:?}");
    assert!((1..20).contains(&cleared.len()), "{} lines: {cleared:?}", cleared.len());
    let too_long: Vec<_> =
        lines.iter().filter(|line| line.contains(&who) && line.chars().count() > 80).collect();
    assert!(too_long.is_empty(), "{too_long:?}");
    drop(namespace);
}
