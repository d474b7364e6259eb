//! What a process is called, and where it runs: `program`, `unit` and `pod` of an owner.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use tests::{
    Puppet, Record, Tracer, TracerCommand, cgroup::Cgroup, feature, namespace::Namespace, process::Process,
    scene::Scene,
};

const THRESHOLD: &str = "200ms";
const UID: &str = "3f6e0c9d-2a7f-5e8c-3b6a-1d0e9f8c7b6a";
const ID: &str = "7a1f6e0c9d2a7f5e8c3b6a1d0e9f8c7b6a5d4e3f2c1b0a9f8e7d6c5b4a3f2e1d";

/// Scripts that say when they run, and then do nothing until their stdin ends.
const SCRIPTS: [(&str, &str, &str); 4] = [
    ("python3", "worker.py", "import sys; print('ready', file=sys.stderr, flush=True); sys.stdin.read()"),
    ("node", "server.js", "process.stderr.write('ready\\n'); process.stdin.resume()"),
    ("sh", "run.sh", "echo ready >&2; while read -r line; do :; done"),
    (
        "java",
        "Main.java",
        "class Main { public static void main(String[] a) throws Exception { System.err.println(\"ready\"); System.in.read(); } }",
    ),
];

/// Runs a script with a secret for an argument. Its stdout is a socket in CLOSE_WAIT: (the process, the socket's port).
fn run_script(interpreter: &str, path: &Path) -> (Process, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (server, peer) = listener.accept().expect("a client has connected");
    let mut command = Command::new(interpreter);
    command.arg(path).args(["--password", "hunter2"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(OwnedFd::from(server));
    let mut process = Process::spawn(&mut command);
    let (stdin, _, stderr) = process.pipes();
    let ready =
        BufReader::new(stderr.expect("piped")).lines().map_while(Result::ok).find(|line| line == "ready");
    assert!(ready.is_some(), "{interpreter} does not run {}", path.display());
    // It ends when this process does.
    std::mem::forget(stdin);
    drop((command, client));
    (process, peer.port())
}

#[test]
fn an_interpreter_is_named_with_its_script() {
    let test = "an_interpreter_is_named_with_its_script";
    let _namespace = Namespace::new();
    let folder = tempfile::tempdir().expect("a folder");
    let mut running = Vec::new();
    for (interpreter, name, script) in SCRIPTS {
        let works = Command::new(interpreter).arg("-version").stdin(Stdio::null()).output();
        if let Err(why) = works {
            feature::tell_not_run(test, interpreter, &why.to_string());
            continue;
        }
        let path = folder.path().join(name);
        fs::write(&path, script).expect("the folder is ours");
        running.push((run_script(interpreter, &path), format!("{interpreter} {name}")));
    }
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    for ((process, port), program) in &running {
        let is_its = |record: &Record| record.is("stuck") && record.remote().port() == *port;
        let stuck = tracer.await_record(program, is_its);
        assert_eq!(stuck.holders(), [(process.pid(), 1)], "{stuck:?}");
        assert_eq!(stuck.get("owners")[0]["program"], **program, "{stuck:?}");
    }
    let run = tracer.stop();
    assert!(!run.lines.iter().any(|line| line.contains("hunter2")), "arguments hold secrets");
}

#[test]
fn a_jar_a_main_class_and_a_module_are_named_and_no_other_argument() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments, program) in [
        ("java", &["-Xmx4g", "-Dkey=hunter2", "-jar", "/opt/app.jar", "hunter2"][..], "java -jar app.jar"),
        ("java", &["-cp", "a.jar:hunter2.jar", "com.example.Main", "hunter2"], "java com.example.Main"),
        ("node", &["--require", "hunter2", "/srv/index.mjs", "hunter2"], "node index.mjs"),
        ("python3.11", &["-u", "-m", "http.server", "hunter2"], "python3.11 -m http.server"),
        ("bash", &["-c", "hunter2"], "bash"),
        ("app-server", &["run.py", "hunter2"], "app-server"),
    ] {
        let path = folder.path().join(name);
        let mut scene = Scene::with_server(|| Puppet::with_arguments(&path, arguments));
        let leak = scene.leak().socket;
        let tracer = Tracer::start(&["--stuck", THRESHOLD]);
        let stuck = tracer.await_stuck(&leak);
        let owner = &stuck.get("owners")[0];
        assert_eq!((&owner["program"], owner["exe"].as_str()), (&json!(program), path.to_str()), "{stuck:?}");
        let run = tracer.stop();
        assert!(
            !run.lines.iter().any(|line| line.contains("hunter2")),
            "arguments hold secrets: {:?}",
            run.lines
        );
        let of_process = |record: &&Record| record.is("process") && record.int("pid") == u64::from(leak.pid);
        let process = run.records.iter().find(of_process).expect("the roll-up at the end");
        assert_eq!(process.text("program"), program);

        let look = |filter: &str| {
            TracerCommand::new(&[
                "--stuck",
                "0s",
                "--once",
                "--program",
                filter,
                "--pid",
                &leak.pid.to_string(),
            ])
            .run()
        };
        assert_eq!(look(program).status.code(), Some(1), "{program}");
        let other = look("no-such-program");
        assert_eq!(other.status.code(), Some(3), "{}", other.stderr);
        assert!(
            other.stderr.contains("no process runs a program with `no-such-program`"),
            "{}",
            other.stderr
        );
    }
}

#[test]
fn the_unit_and_the_pod_of_the_owner_are_told_and_are_filters() {
    let test = "the_unit_and_the_pod_of_the_owner_are_told_and_are_filters";
    let me = std::process::id();
    let unit = format!("tcptrace-{me}.service");
    let pod = format!(
        "/kubepods-{me}.slice/kubepods-{me}-pod{}.slice/cri-containerd-{ID}.scope",
        UID.replace('-', "_")
    );
    for (path, unit, pod, container, place) in [
        (format!("/tcptrace-{me}.slice/{unit}/worker"), unit.clone(), None, None, format!(" ({unit}):")),
        (pod, format!("cri-containerd-{ID}.scope"), Some(UID), Some(ID), " (pod 3f6e0c9d-2a7):".to_owned()),
    ] {
        let cgroup = match Cgroup::new(&path) {
            Ok(cgroup) => cgroup,
            Err(why) => return feature::tell_not_run(test, "a cgroup", &why),
        };
        let mut scene = Scene::new();
        cgroup.admit(scene.server.pid());
        let leak = scene.leak().socket;
        let name = unit.strip_suffix(".service").unwrap_or(&unit);
        let tracer = Tracer::start(&["--stuck", THRESHOLD, "--unit", name]);
        let stuck = tracer.await_stuck(&leak);
        let expected = (&json!(unit), &json!(pod), &json!(container), &json!("puppet"));
        let owner = &stuck.get("owners")[0];
        assert_eq!(
            (&owner["unit"], &owner["pod"], &owner["container"], &owner["program"]),
            expected,
            "{stuck:?}"
        );
        let run = tracer.stop();
        let process = run.records.iter().find(|record| record.is("process")).expect("the roll-up at the end");
        let told =
            (process.get("unit"), process.get("pod"), process.get("container"), process.get("program"));
        assert_eq!(told, expected, "{process:?}");

        let text = TracerCommand::new(&["--stuck", THRESHOLD, "--unit", name]).start();
        let line = text.await_line("the roll-up", |line| line.contains(" 1 stuck"));
        assert!(line.contains(&place), "{line}");
        drop(text);
        let other = TracerCommand::new(&["--stuck", "0s", "--once", "--unit", "no-such"]).run();
        assert_eq!(other.status.code(), Some(3), "{}", other.stderr);
        assert!(other.stderr.contains("no process is in the unit no-such.service"), "{}", other.stderr);
        drop(scene); // before the group
    }
}
