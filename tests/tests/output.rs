//! Where the records go: files that are rotated, readers that leave, full disks; and what stderr
//! has.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt as _, chown},
            net::UnixStream,
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Resource, Rlimit, setrlimit},
};
use tests::{
    Namespace, Puppet, Record, Signal, Tracer, TracerCommand, feature,
    process::poll_until,
    record::{Stream, with_gaps},
    recording::Recording,
    scene::Scene,
    terminal,
    user::{self, CapabilitySet, Copied, UID},
    witness,
};

/// A directory. Dropping this removes it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tcptrace-output-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder in the temporary one");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Returns the records of files that follow each other; asserts that every line is whole.
fn records(files: &[PathBuf]) -> Vec<Record> {
    let mut stream = Stream::default();
    let mut records = Vec::new();
    for file in files {
        let bytes = fs::read(file).expect("it is there");
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{} ends within a line", file.display());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").expect("whole");
            records.push(
                stream
                    .record(line)
                    .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line))),
            );
        }
    }
    records
}

/// Waits until a file has a record.
fn await_start(file: &Path) {
    poll_until("the start in the file", || {
        fs::read(file).is_ok_and(|bytes| bytes.contains(&b'\n')).then_some(())
    });
}

#[test]
fn over_rotations_under_load_every_record_is_in_one_of_the_files() {
    const ROTATIONS: usize = 5;
    const CONNECTIONS: usize = 40;
    let folder = Folder::new("rotation");
    let namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let current = folder.file("t.json");
    let tracer = TracerCommand::new(&["--transitions", "--json", "--output", text(&current)]).start();
    await_start(&current);
    let listener = puppet.listen("127.0.0.1:0");
    let mut files = Vec::new();
    for rotation in 1..=ROTATIONS {
        puppet.churn(&listener, CONNECTIONS);
        let rotated = folder.file(&format!("t.json.{rotation}"));
        fs::rename(&current, &rotated).expect("it is there");
        tracer.signal(Signal::HUP);
        puppet.churn(&listener, CONNECTIONS);
        poll_until("the file to be opened again", || current.exists().then_some(()));
        files.push(rotated);
    }
    puppet.close(&listener);
    poll_until("all sockets to be closed", || {
        witness::all().iter().all(|seen| seen.state == "TIME-WAIT").then_some(())
    });
    let run = tracer.stop();
    assert_eq!((run.lines.len(), run.stderr.as_str()), (0, ""), "nothing goes to stdout");
    files.push(current);
    let records = records(&files);
    assert!(records[0].is("start"));
    let summary = records.last().filter(|record| record.is("summary")).expect("the summary comes last");
    let seen: Vec<_> = records.iter().filter(|record| record.is("transition")).collect();
    assert_eq!(seen.len() as u64, summary.int("transitions"));
    let ours = seen.iter().filter(|record| record.is_in(namespace.inode())).count();
    let missing = (2 * ROTATIONS * CONNECTIONS * 10 + 2).checked_sub(ours);
    assert!(
        feature::are_told(missing, &records[0], summary),
        "{missing:?} missing; not whole: {:?}",
        with_gaps(&records, namespace.inode())
    );
    let mode = fs::metadata(&files[0]).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o022, 0, "others may write: {mode:o}");
}

#[test]
fn a_file_that_cannot_be_opened_again_is_told_and_the_old_one_goes_on() {
    let folder = Folder::new("gone");
    let inner = folder.file("inner");
    fs::create_dir(&inner).expect("a folder");
    let file = inner.join("t.json");
    let mut scene = Scene::new();
    let tracer = TracerCommand::new(&["--stuck", "100ms", "--json", "--output", text(&file)]).start();
    await_start(&file);
    let moved = folder.file("moved");
    fs::rename(&inner, &moved).expect("it is there");
    tracer.signal(Signal::HUP);
    tracer.await_stderr("records go on into the file that was open before");
    let leak = scene.leak().socket;
    let file = moved.join("t.json");
    poll_until("the leak in the old file", || {
        records(std::slice::from_ref(&file))
            .iter()
            .any(|record| record.is_about("stuck", &leak))
            .then_some(())
    });
    tracer.stop();
    assert!(records(&[file]).last().is_some_and(|record| record.is("summary")));
}

#[test]
fn root_rotates_in_a_folder_of_somebody_else_with_the_privileges_given_up() {
    // As Debian's folders of syslog:adm.
    let folder = Folder::new("theirs");
    chown(&folder.0, Some(UID), Some(UID)).expect("root may");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).expect("root may");
    let (file, rotated) = (folder.file("t.json"), folder.file("t.json.1"));
    let tracer = TracerCommand::new(&["--stuck", "1h", "--json", "--output", text(&file)]).start();
    await_start(&file);
    fs::rename(&file, &rotated).expect("root may");
    // As `create 0640 syslog adm` in logrotate's configuration.
    fs::write(&file, "").expect("root may");
    chown(&file, Some(UID), Some(UID)).expect("root may");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("root may");
    tracer.signal(Signal::HUP);
    tracer.await_idle();
    let run = tracer.stop();
    assert_eq!(run.stderr, "");
    assert_eq!(records(&[rotated]).len(), 1);
    assert!(fs::read_to_string(&file).expect("it is there").contains("\"summary\""));
}

#[test]
fn the_line_of_a_run_that_was_killed_is_no_part_of_the_next_runs_first() {
    let folder = Folder::new("cut");
    let file = folder.file("t.json");
    fs::write(&file, "{\"v\":1,\"event\":\"transi").expect("room on the disk");
    let arguments = ["--stuck", "1h", "--json", "--duration", "10ms", "--output", text(&file)];
    let run = TracerCommand::new(&arguments).run();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    let whole = fs::read_to_string(&file).expect("UTF-8");
    assert!(whole.starts_with("{\"v\":1,\"event\":\"transi\n{\"v\":1,\"event\":\"start\","), "{whole}");
    let run = TracerCommand::exactly(&["--replay", text(&file), "--json", "--transitions"]).run();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("line 1 of the recording is cut off"), "{}", run.stderr);
}

#[test]
fn a_file_that_cannot_be_written_to_is_refused_before_anything_is_traced() {
    let folder = Folder::new("refused");
    let fifo = folder.file("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
    for (path, words) in
        [(&*folder.0, "Is a directory"), (&folder.file("none/x"), "No such file"), (&fifo, "nobody reads it")]
    {
        let run = TracerCommand::new(&["--stuck", "1h", "--json", "--output", text(path)]).run();
        assert_eq!(run.status.code(), Some(2), "{}", run.stderr);
        assert!(run.stderr.contains(words) && run.stderr.contains(text(path)), "{}", run.stderr);
    }
}

#[test]
fn file_capabilities_neither_read_nor_write_what_the_user_may_not() {
    let name = "file_capabilities_neither_read_nor_write_what_the_user_may_not";
    const SECRET: &str = "only-root-may-read-this";
    let folder = Folder::new("capabilities");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let (secret, recorded) = (folder.file("secret"), folder.file("recorded"));
    fs::write(&secret, format!("\"{SECRET}\"\n")).expect("room on the disk");
    let start = format!(
        "{{\"v\":1,\"event\":\"start\",\"time\":\"2026-11-22T15:45:32Z\",\"mono_ns\":9,\"version\":\"1\",\"kernel\":\"6\",\"host\":\"{SECRET}\"}}\n"
    );
    fs::write(&recorded, start).expect("room on the disk");
    let locked = folder.file("locked");
    fs::create_dir(&locked).expect("a folder");
    for path in [&secret, &recorded, &locked] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }
    let own = folder.file("own");
    fs::create_dir(&own).expect("a folder");
    chown(&own, Some(UID), Some(UID)).expect("root may");
    let copied = Copied::new();
    let held = CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::BPF
        | CapabilitySet::PERFMON
        | CapabilitySet::SYS_ADMIN
        | CapabilitySet::SYS_PTRACE
        | (CapabilitySet::SYS_RESOURCE & user::ours());
    let run = |arguments: &[&str]| {
        copied.run_with_file_capabilities(TracerCommand::exactly(arguments), held).map(TracerCommand::run)
    };
    for file in [&secret, &recorded] {
        let run = match run(&["--replay", text(file), "--transitions"]) {
            Ok(run) => run,
            Err(error) => return feature::tell_not_run(name, "capabilities of files", &error.to_string()),
        };
        assert_eq!(run.status.code(), Some(2), "{}", run.stderr);
        assert!(run.stderr.contains("Permission denied"), "{}", run.stderr);
        assert!(!run.stderr.contains(SECRET) && run.lines.is_empty(), "{}: {:?}", run.stderr, run.lines);
    }
    let recording = Recording::new("own", &["{}".to_owned()]);
    let to = |file: &Path| {
        run(&["--replay", text(recording.path()), "--json", "--output", text(file)]).expect("as before")
    };
    assert!(to(&locked.join("x")).stderr.contains("Permission denied"));
    assert!(!locked.join("x").exists());
    // That one may be written; what is read is no recording.
    let replayed = to(&own.join("x"));
    assert!(replayed.status.code() == Some(4) && own.join("x").exists(), "{}", replayed.stderr);
    // And where it traces, which takes the capabilities, the file is still opened without.
    let traced = |file: &Path| {
        run(&["--stuck", "1h", "--json", "--duration", "10ms", "--output", text(file)]).expect("as before")
    };
    let denied = traced(&locked.join("y"));
    assert_eq!(denied.status.code(), Some(2), "{}", denied.stderr);
    assert!(!locked.join("y").exists());
    let allowed = traced(&own.join("y"));
    assert_eq!(allowed.status.code(), Some(0), "{}", allowed.stderr);
    assert_eq!(records(&[own.join("y")]).len(), 2);
}

#[test]
fn what_is_read_is_not_written_to_at_once() {
    let start = r#"{"v":1,"event":"start","time":"2026-11-22T15:45:32Z","mono_ns":9,"version":"1","kernel":"6","host":"h"}"#;
    let recording = Recording::new("itself", &[start.to_owned()]);
    let run = recording.replay(&["--json", "--output", text(recording.path())]);
    assert_eq!(run.status.code(), Some(2), "{}", run.stderr);
    assert_eq!(fs::read_to_string(recording.path()).expect("UTF-8"), format!("{start}\n"));
}

/// Starts a tracer that has nothing to report.
fn quiet(stdout: impl Into<OwnedFd>) -> Tracer {
    let mut command = TracerCommand::new(&["--stuck", "1h", "--state", "closing", "--json"]);
    command.command.stdout(stdout.into());
    command.start()
}

#[test]
fn a_reader_that_goes_away_ends_the_run_though_nothing_happens() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let (terminal, other_side) = terminal::open(80);
    let ends: [(OwnedFd, OwnedFd); 3] =
        [(writer.into(), reader.into()), (theirs.into(), ours.into()), (terminal, other_side)];
    for (stdout, reader) in ends {
        let tracer = quiet(stdout);
        tracer.await_idle();
        drop(reader);
        let run = tracer.finish();
        assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn a_replay_whose_reader_has_gone_does_not_wait_for_more_to_replay() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let (input, more) = io::pipe().expect("a pipe");
    let mut command = TracerCommand::exactly(&["--replay", "-", "--json", "--transitions"]);
    command.command.stdin(input).stdout(writer);
    let tracer = command.start();
    tracer.await_idle();
    drop(reader);
    let run = tracer.finish();
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
    drop(more);
}

#[test]
fn while_it_is_being_recorded_a_replay_tells_what_has_come() {
    let (input, mut more) = io::pipe().expect("a pipe");
    let mut command = TracerCommand::exactly(&["--replay", "-", "--json", "--transitions"]);
    command.command.stdin(input);
    let tracer = command.start();
    let lost = r#"{"v":1,"event":"lost","time":"2026-11-22T15:45:33.204233918Z","mono_ns":9,"lost":1,"lost_total":1,"reason":"ring_full"}"#;
    io::Write::write_all(&mut more, format!("{lost}\n").as_bytes()).expect("it reads");
    tracer.await_record("a record before the end of the recording", |record| record.is("lost"));
    drop(more);
    assert_eq!(tracer.finish().status.code(), Some(0));
}

#[test]
fn a_terminal_that_goes_away_does_not_end_a_run_that_was_started_by_nohup() {
    let mut command = TracerCommand::new(&["--stuck", "1h", "--state", "closing", "--json"]);
    // SAFETY: a system call and no more.
    unsafe {
        command.command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            Ok(())
        });
    }
    let tracer = command.start();
    tracer.await_record("the start", |record| record.is("start"));
    tracer.signal(Signal::HUP);
    tracer.await_idle();
    // Shells have SIGINT ignored by what they run in the background, and scripts end that with it.
    tracer.signal(Signal::INT);
    let run = tracer.finish();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    assert!(run.summary().number("duration_ms") > 0.0);
}

#[test]
fn a_file_at_its_limit_is_a_failure_with_a_message_that_says_what_is_missing() {
    // More than the start takes on any kernel, less than ten connections do.
    const LIMIT: u64 = 8192;
    let folder = Folder::new("limit");
    let file = folder.file("t.json");
    let _namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let mut command = TracerCommand::new(&["--transitions", "--json", "--output", text(&file)]);
    // SAFETY: a system call and no more.
    unsafe {
        command.command.pre_exec(|| {
            Ok(setrlimit(Resource::Fsize, Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) })?)
        });
    }
    let tracer = command.start();
    await_start(&file);
    let listener = puppet.listen("127.0.0.1:0");
    puppet.churn(&listener, 10);
    let run = tracer.finish();
    assert_eq!(run.status.code(), Some(4), "{}", run.stderr);
    for words in [text(&file), "File too large", "the summary included"] {
        assert!(run.stderr.contains(words), "nothing of {words}: {}", run.stderr);
    }
    assert!(fs::metadata(&file).expect("it is there").len() <= LIMIT);
}

#[test]
fn stderr_says_less_or_more_as_is_wanted() {
    let said = |arguments: &[&str]| {
        let run = TracerCommand::new(&[&["--stuck", "1h", "--duration", "10ms"], arguments].concat()).run();
        assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
        // Another test may have made exactly one meanwhile.
        let totals = ["transitions seen", "1 transition seen"].map(|words| run.stderr.contains(words));
        (run.stderr.contains("watching"), totals.contains(&true))
    };
    assert_eq!(said(&[]), (true, true));
    assert_eq!(said(&["-q"]), (false, false));
    assert_eq!(said(&["--json"]), (false, false));
    assert_eq!(said(&["--json", "-v"]), (true, true));
    let once = TracerCommand::new(&["--stuck", "99years", "--once", "-q"]).run();
    assert_eq!((once.status.code(), once.stderr.as_str()), (Some(0), ""));
    // What went wrong is told all the same.
    let wrong = TracerCommand::exactly(&["--replay", "/nonexistent", "-q"]).run();
    assert!(wrong.stderr.contains("cannot open /nonexistent"), "{}", wrong.stderr);
}

#[test]
fn colour_is_for_a_terminal_unless_the_user_says_otherwise() {
    let mut scene = Scene::new();
    for (arguments, is_terminal, expected) in [
        (&[][..], false, false),
        (&["--color", "always"], false, true),
        (&["--color", "auto"], true, true),
        (&["--color", "never"], true, false),
    ] {
        let arguments = [&["--stuck", "100ms"], arguments].concat();
        let mut command = TracerCommand::new(&arguments);
        if is_terminal {
            let (theirs, ours) = terminal::open(120);
            command = command.stdout(theirs, ours);
        }
        command.command.env("TERM", "xterm");
        let tracer = command.start();
        let leak = scene.leak().socket;
        let port = leak.remote.expect("connected").port().to_string();
        let line = tracer.await_line("the leak", |line| line.contains(&port));
        assert_eq!(line.contains('\u{1b}'), expected, "{arguments:?}: {line:?}");
        scene.server.close(&leak);
        tracer.stop();
    }
}

#[test]
fn whatever_a_recording_or_an_argument_holds_stderr_is_lines_of_plain_text() {
    const EVIL: &str = "\\u001b[2J\\u001b[Htcptrace: nothing stuck\\n\\u009b31m\\u202e";
    let start = r#"{"v":1,"event":"start","time":"2026-11-22T15:45:32.104233918Z","mono_ns":9,"version":"VERSION","kernel":"KERNEL","host":"HOST"}"#;
    let transition = r#"{"v":1,"event":"transition","time":"TIME","mono_ns":9,"cookie":5,"netns":null,"family":"FAMILY","local_addr":"ADDRESS","local_port":80,"remote_addr":"10.0.0.9","remote_port":4000,"old_state":"OLD","new_state":"CLOSE_WAIT","stand_in":false,"in_old_state_ms":null,"owner":null,"owner_how":"OWNED","how":"HOW"}"#;
    let sound = [
        ("TIME", "2026-11-22T15:45:32.104233918Z"),
        ("FAMILY", "ipv4"),
        ("ADDRESS", "10.0.0.5"),
        ("OLD", "ESTABLISHED"),
        ("OWNED", "none"),
        ("HOW", "peer"),
    ];
    let with = |wrong: &str| {
        sound.iter().fold(transition.to_owned(), |line, (field, value)| {
            line.replace(
                &format!("\"{field}\""),
                &format!("\"{}\"", if *field == wrong { EVIL } else { value }),
            )
        })
    };
    let banner =
        ["VERSION", "KERNEL", "HOST"].iter().fold(start.to_owned(), |line, field| line.replace(field, EVIL));
    let mut lines: Vec<_> = sound.iter().map(|(field, _)| with(field)).collect();
    lines.push("\u{1b}[2J".to_owned());
    lines.push(format!("\u{9b}31m{}", "x".repeat(100_000)));
    let reason = r#"{"v":1,"event":"lost","time":"2026-11-22T15:45:32Z","mono_ns":9,"lost":1,"lost_total":1,"reason":"REASON"}"#;
    lines.push(reason.replace("REASON", EVIL));
    for line in lines {
        let run = Recording::new("evil", &[banner.clone(), line.clone()]).replay(&["--transitions"]);
        assert_eq!(run.status.code(), Some(4), "{line}: {}", run.stderr);
        assert_plain(&run.stderr);
        assert!(run.stderr.len() < 4096 && run.stderr.contains("line 2 of the recording"), "{}", run.stderr);
    }
    for argument in ["/tmp/\u{1b}[2J\nx", "\u{9b}31m"] {
        for arguments in
            [["--replay", argument], ["--stuck", argument], ["--output", &format!("/nonexistent/{argument}")]]
        {
            let run = TracerCommand::new(&arguments).run();
            assert_eq!(run.status.code(), Some(2), "{arguments:?}: {}", run.stderr);
            assert!(!run.stderr.contains(|c: char| c.is_control() && c != '\n'), "{:?}", run.stderr);
        }
    }
}

/// Asserts that every line is a message of tcptrace without control characters.
fn assert_plain(stderr: &str) {
    for line in stderr.lines() {
        assert!(line.starts_with("tcptrace: "), "{stderr:?}");
        let does_harm =
            |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
        assert!(!line.contains(does_harm), "{stderr:?}");
    }
}
