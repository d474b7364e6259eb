//! Processes whose names, paths and cgroups are made to mislead the reader.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use tests::{
    Puppet, Tracer, TracerCommand, cgroup::Cgroup, feature, scene::Scene, schema::LISTED, terminal, witness,
};

/// Names that clear the screen, begin a line, move the cursor back, are no UTF-8, reverse the
/// direction, are invisible, or have a C1 control.
const NAMES: [&[u8]; 10] = [
    b"\x1b[2J\x1b[H",
    b"a\n12:00:00 1s",
    b"a\rb\tc\x08d",
    b"\xff\xfe\x80bad",
    "\u{202e}evil\u{2066}".as_bytes(),
    "a\u{200b}b\u{feff}".as_bytes(),
    "\u{9b}31m\u{2028}x".as_bytes(),
    "\u{5d0}\u{5d1}\u{5d2}".as_bytes(),
    "e\u{301}\u{1160}".as_bytes(),
    "\u{65e5}\u{672c}\u{8a9e}".as_bytes(),
];

/// Returns whether a character affects the text around it.
fn does_harm(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

/// Returns how many columns of a terminal a text with these names takes.
fn columns(text: &str) -> usize {
    text.chars().map(|c| if matches!(c, '\u{3000}'..='\u{9fff}') { 2 } else { 1 }).sum()
}

#[test]
fn on_a_terminal_every_name_stays_in_its_columns() {
    let mut scene = Scene::new();
    let (theirs, ours) = terminal::open(120);
    let mut command = TracerCommand::new(&["--stuck", "100ms"]).stdout(theirs, ours);
    command.command.env("NO_COLOR", "1");
    let tracer = command.start();
    tracer.await_stderr("watching");
    let mut lines = Vec::new();
    for name in NAMES {
        scene.server.rename(name);
        let leak = scene.leak().socket;
        let remote = leak.remote.expect("connected").to_string();
        let is_it = |line: &str| line.contains(&remote) && line.contains("not closed");
        lines.push((tracer.await_line("the leak", is_it), format!("{} {remote} ", leak.local)));
        scene.server.close(&leak);
        tracer.await_line("its end", |line| line.contains(&remote) && line.contains("cleared"));
    }
    let run = tracer.stop();
    let heading = run.lines.iter().find(|line| line.starts_with("TIME")).expect("a heading");
    let local = heading.find("LOCAL").expect("a column");
    for (line, ends) in &lines {
        let from = line.find(ends.split(' ').next().expect("an address")).expect("its local end");
        assert_eq!(columns(&line[..from]), local, "\n{heading}\n{line}");
    }
    for line in &run.lines {
        assert!(!line.chars().any(does_harm), "{line:?}");
        let begins = line.get(..9).is_some_and(|time| time.bytes().filter(|byte| *byte == b':').count() == 2);
        assert!(begins || line == heading, "no record: {line:?}");
    }
}

#[test]
fn in_json_names_and_paths_are_what_they_are_and_a_line_is_a_line() {
    let folder = std::env::temp_dir().join(OsString::from_vec(
        [
            format!("tcptrace-test-{}-", std::process::id()).as_bytes(),
            b"\n\x1b[2J\"\\ \xff\xe2\x80\xae\xc2\x9b",
        ]
        .concat(),
    ));
    fs::create_dir_all(&folder).expect("any bytes are a name");
    let path = folder.join("puppet");
    let mut puppet = Puppet::at(&path);
    let name = format!("/tcptrace-test-{}.slice/a\u{1b}[2J\u{202e}\u{85}\"b", std::process::id());
    let cgroup = Cgroup::new(&name);
    match &cgroup {
        Ok(cgroup) => cgroup.admit(puppet.pid()),
        Err(why) => feature::tell_not_run(
            "in_json_names_and_paths_are_what_they_are_and_a_line_is_a_line",
            "a cgroup",
            why,
        ),
    }
    let namespace = tests::Namespace::new();
    let listener = puppet.listen("127.0.0.1:0");
    let tracer = Tracer::start(&["--stuck", "100ms", "--transitions"]);
    for name in NAMES {
        puppet.rename(name);
        let (client, server) = puppet.pairs(&listener, 1)[0];
        puppet.close(&client);
        let stuck = tracer.await_stuck(&server);
        let owner = &stuck.get("owners")[0];
        assert_eq!(owner["comm"], String::from_utf8_lossy(name).as_ref(), "{stuck:?}");
        assert_eq!(owner["exe"], String::from_utf8_lossy(path.as_os_str().as_bytes()).as_ref(), "{stuck:?}");
        if let Ok(cgroup) = &cgroup {
            assert_eq!(owner["cgroup"], cgroup.path(), "{stuck:?}");
        }
        puppet.close(&server);
        tracer.await_cleared(&server);
    }
    let run = tracer.stop();
    assert_eq!(run.lines.len(), run.records.len());
    for line in &run.lines {
        assert!(!line.chars().any(does_harm), "{line:?}");
    }
    drop((puppet, namespace));
    let _left_behind = fs::remove_dir_all(&folder);
}

/// The length of the longest line that tcptrace promises to write and to read back, bytes.
const LONGEST_RECORD: usize = 1 << 20;

#[test]
fn many_descriptors_and_a_long_path_make_a_short_record_that_filters_look_behind() {
    let base = std::env::temp_dir().join(format!("tcptrace-test-long-{}", std::process::id()));
    // Six bytes of JSON for each byte of it.
    let folder = (0..14).fold(base.clone(), |folder, _| folder.join("\u{1}".repeat(250)));
    fs::create_dir_all(&folder).expect("a long path is a path");
    let path = folder.join("puppet");
    let namespace = tests::Namespace::new();
    let mut puppet = Puppet::at(&path);
    let listener = puppet.listen("127.0.0.1:0");
    let (client, server) = puppet.pairs(&listener, 1)[0];
    let copies = (0..20).map(|_| puppet.dup(&server).fd).count();
    let mut pids: Vec<u32> = (0..20).map(|_| puppet.fork()).collect();
    pids.push(puppet.pid());
    pids.sort_unstable();
    // The children hold the client's end as well.
    puppet.shutdown(&client);
    let last = pids[pids.len() - 1].to_string();
    let run = |more: &[&str]| {
        let tracer = Tracer::start(&[&["--stuck", "100ms"], more].concat());
        let stuck = tracer.await_stuck(&server);
        (stuck, tracer.stop())
    };
    let (stuck, all) = run(&[]);
    let seen = witness::find(&server).expect("it is still there").holders;
    assert_eq!(seen.len(), 21 * (1 + copies));
    assert_eq!(stuck.int("owners_total"), seen.len() as u64);
    // One descriptor of each process, those with the lowest pids: the last one is not among them.
    let firsts: Vec<_> = pids[..LISTED].iter().map(|pid| (*pid, server.fd)).collect();
    assert_eq!(stuck.holders(), firsts);
    assert_eq!(stuck.get("peer")["owners_total"], 21);
    let exe = stuck.get("owners")[0]["exe"].as_str().expect("it lives");
    let shown = exe.strip_suffix('…').expect("cut");
    assert!(path.to_string_lossy().starts_with(shown) && exe.len() > 500, "{exe:?}");
    let longest = all.lines.iter().map(String::len).max().expect("lines");
    assert!(longest < LONGEST_RECORD, "{longest} bytes");

    let (filtered, _) = run(&["--pid", &last]);
    for field in ["owners", "owners_total", "peer"] {
        assert_eq!(filtered.get(field), stuck.get(field), "a filter changes nothing in a record");
    }
    drop((puppet, namespace));
    let _left_behind = fs::remove_dir_all(&base);
}
