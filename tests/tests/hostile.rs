//! Processes whose names, paths and cgroups are made to mislead who reads of them.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use tests::{Puppet, Tracer, TracerCommand, cgroup::Cgroup, feature, scene::Scene, terminal};

/// Clears the screen; begins a line; goes back; is no UTF-8; turns the line round; is invisible; a C1 control.
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

/// Whether it does something to what is around it.
fn does_harm(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

/// Columns that a terminal gives to a text with these names in it.
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
