//! docs/pipelines.md: runs what it shows on real sockets, and compares the result with what the
//! test did to them. `tests/src/pipeline.rs` has the parts of a test.

use std::{collections::BTreeMap, process::Stdio};

use serde_json::Value;
use tests::{
    Process, Record, Signal, Sock, feature,
    journal::Journal,
    pipeline::{
        ANSWERED, SENT, Shop, Story, exited, has_no_tools, names, output, record, records, rows, values,
    },
    process::{poll_until, tracer_program},
    scene::Scene,
    schema::LISTED,
    witness,
};

/// Returns a file's records of an event, of all sockets.
fn of(shop: &Shop, event: &str) -> Vec<Record> {
    shop.records("tcptrace.json").into_iter().filter(|record| record.is(event)).collect()
}

/// Blocks that are shown and not tested; the document says so.
const NOT_RUN: [&str; 2] = ["vector.yaml", "fluent-bit.yaml"];

#[test]
fn everything_that_is_shown_is_run_here_or_said_not_to_be() {
    let tests = [include_str!("pipelines.rs"), include_str!("pipelines_sql.rs")];
    let is_run = |name: &str| tests.iter().any(|text| text.contains(&format!("\"{name}\"")));
    let named = |name: &&str| NOT_RUN.contains(name) || is_run(name);
    let (shown, unknown): (Vec<_>, Vec<_>) = names().into_iter().partition(named);
    assert!(shown.len() > NOT_RUN.len() && unknown.is_empty(), "no test runs {unknown:?}");
}

#[test]
fn jq_tells_who_is_stuck_and_what_ended_it() {
    if has_no_tools("jq_tells_who_is_stuck_and_what_ended_it", "jq") {
        return;
    }
    let shop = Shop::new();
    let story = record(&shop, "jq");
    let stuck = output(shop.command("stuck-now"));
    let row = |pid: u32| rows(&stuck).into_iter().find(|row| row[0] == pid.to_string());
    let since = |socket: &Sock| {
        let records = of(&shop, "stuck");
        records.iter().find(|record| record.is_about("stuck", socket)).expect("told").text("since").to_owned()
    };
    let oldest = story.left.iter().map(since).min().expect("two");
    let pid = story.scene.server.pid();
    let expected = [&*pid.to_string(), "jq-server", "2", &oldest, "not_closed"].join(" ");
    assert_eq!(row(pid).map(|row| row.join(" ")), Some(expected), "{stuck}");
    let pid = story.crowd.pid();
    let crowd = [pid.to_string(), "jq-crowd".into(), "1".into(), since(&story.crowded), "not_closed".into()];
    assert_eq!(row(pid).map(|row| row.join(" ")), Some(crowd.join(" ")));
    assert_eq!(stuck.matches("jq-crowd").count(), LISTED, "{stuck}");
    assert_eq!(row(story.ended.0), None, "it has ended");

    let cleared = output(shop.command("cleared"));
    for (socket, how, comm) in
        [(&story.closed, "closed", "jq-server"), (&story.ended.1, exited(), "jq-other")]
    {
        let pid = socket.pid.to_string();
        let rows: Vec<_> = rows(&cleared).into_iter().filter(|row| row[5] == pid).collect();
        assert_eq!(rows.len(), 1, "{cleared}");
        let told = [&*rows[0][1], &rows[0][3], &rows[0][4]];
        assert_eq!(told, [&*socket.local.port().to_string(), how, comm]);
        assert!(rows[0][2].parse::<f64>().is_ok_and(|ms| ms >= 300.0), "{cleared}");
    }
}

#[test]
fn jq_tells_how_connections_end() {
    const TEST: &str = "jq_tells_how_connections_end";
    if has_no_tools(TEST, "jq") || feature::is_missing(feature::TP_BTF, TEST) {
        return;
    }
    let shop = Shop::new();
    let story = record(&shop, "ends");
    let endings = output(shop.command("endings"));
    let ending = |comm: &str| -> Vec<String> {
        let rows = rows(&endings).into_iter().filter(|row| row[0] == comm);
        rows.map(|row| row[1..5].join(" ")).collect()
    };
    let lives = of(&shop, "life");
    let client = Value::from(story.scene.client.pid());
    let of_client = lives.iter().filter(|life| life.get("owner")["pid"] == client).count();
    assert!((3..=6).contains(&of_client), "{lives:?}");
    assert_eq!(ending("ends-client"), [format!("local_close {of_client} {SENT} {ANSWERED}")], "{endings}");
    assert_eq!(ending("ends-server"), [format!("peer_close 2 {ANSWERED} {SENT}")], "{endings}");
    assert_eq!(ending("ends-other"), ["exit 1 0 0"], "{endings}");
}

#[test]
fn jq_tells_the_volume_and_samples_without_losing_what_matters() {
    if has_no_tools("jq_tells_the_volume_and_samples_without_losing_what_matters", "jq") {
        return;
    }
    let shop = Shop::new().with("--transitions");
    let tracer = shop.start("record");
    shop.await_record("the start", |record| record.is("start"));
    let mut scene = Scene::new();
    let Scene { server, listener, .. } = &mut scene;
    // Some of their cookies are such, and some are not.
    server.churn(listener, 100);
    let leak = scene.leak().socket;
    shop.await_record("the leak", |record| record.is_about("stuck", &leak));
    assert!(tracer.stop().success(), "{}", shop.read("record.err"));
    let text = shop.read("tcptrace.json");
    let all = records(&text);
    let mut sizes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (line, record) in text.lines().zip(&all) {
        sizes.entry(record.event()).or_default().push(line.len() + 1);
    }
    let expected: String = sizes
        .iter()
        .map(|(event, sizes)| {
            format!("{event}\t{}\t{}\n", sizes.len(), sizes.iter().sum::<usize>() / sizes.len())
        })
        .collect();
    assert_eq!(output(shop.command("volume")), expected);

    let kept = values(&output(shop.command("sample")));
    let is_ordinary = |record: &Value| {
        record["event"] == "transition"
            || (record["event"] == "life"
                && (record["close_reason"] == "local_close" || record["close_reason"] == "peer_close"))
    };
    let is_kept = |record: &Value| {
        !is_ordinary(record) || record["cookie"].as_u64().is_some_and(|cookie| cookie % 16 == 0)
    };
    let expected: Vec<_> = values(&text).into_iter().filter(is_kept).collect();
    assert_eq!(kept, expected);
    let sampled = kept.iter().filter(|record| is_ordinary(record)).count();
    assert!(sampled > 0 && kept.len() < all.len(), "{sampled} of {}", all.len());
    assert!(kept.iter().any(|record| record["event"] == "stuck"));
}

#[test]
fn jq_shows_every_transition_at_a_port_as_it_happens() {
    const TEST: &str = "jq_shows_every_transition_at_a_port_as_it_happens";
    if has_no_tools(TEST, "jq") || feature::is_missing(feature::TP_BTF, TEST) {
        return;
    }
    let shop = Shop::new();
    let mut scene = Scene::new();
    let mut command = shop.command("transitions");
    command.env("PORT", scene.listener.local.port().to_string());
    let pipeline = shop.start_command("transitions", command);
    // Until it traces, what is done is not seen.
    poll_until("the first transitions", || {
        scene.connection();
        (!shop.read("transitions.out").is_empty()).then_some(())
    });
    let (client, server) = scene.connection();
    scene.client.close(&client);
    witness::await_state(&client, "FIN-WAIT-2");
    scene.server.close(&server);
    let port = client.local.port().to_string();
    let seen = |from: usize, to: usize| {
        let text = shop.read("transitions.out");
        let whole = &text[..text.rfind('\n').map_or(0, |last| last + 1)];
        let its = rows(whole).into_iter().filter(|row| row[from] == port && row[to] != port);
        its.map(|row| (row[5].clone(), row[6].clone(), row[7].clone())).collect::<Vec<_>>()
    };
    poll_until("its last transition", || seen(4, 2).iter().any(|(_, new, _)| new == "CLOSE").then_some(()));
    assert!(pipeline.stop().success(), "{}", shop.read("transitions.err"));
    let path = |seen: &[(String, String, String)]| {
        seen.iter().map(|(old, new, _)| format!("{old} {new}")).collect::<Vec<_>>()
    };
    let of_server = path(&seen(4, 2));
    let expected = [
        "LISTEN SYN_RECV",
        "SYN_RECV ESTABLISHED",
        "ESTABLISHED CLOSE_WAIT",
        "CLOSE_WAIT LAST_ACK",
        "LAST_ACK CLOSE",
    ];
    assert_eq!(of_server, expected);
    let of_client = path(&seen(2, 4));
    let expected = ["SYN_SENT ESTABLISHED", "ESTABLISHED FIN_WAIT1", "FIN_WAIT1 FIN_WAIT2"];
    assert_eq!(of_client[..3], expected, "{of_client:?}");
}

#[test]
fn jq_follows_what_is_lost() {
    if has_no_tools("jq_follows_what_is_lost", "jq") {
        return;
    }
    let shop = Shop::new().with("--ring-size 4096");
    let tracer = shop.start("record");
    shop.await_record("the start", |record| record.is("start"));
    let follower = shop.start("losses");
    let mut scene = Scene::new();
    let Scene { server, listener, .. } = &mut scene;
    tracer.signal(Signal::STOP);
    server.churn(listener, 60);
    tracer.signal(Signal::CONT);
    let told = |event: &str| {
        let text = shop.read("losses.out");
        let whole = &text[..text.rfind('\n').map_or(0, |last| last + 1)];
        let told = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("jq writes JSON"));
        told.filter(|told| told["event"] == event).collect::<Vec<_>>()
    };
    poll_until("the repair, told while it runs", || (!told("resync").is_empty()).then_some(()));
    assert!(tracer.stop().success(), "{}", shop.read("record.err"));
    poll_until("the end of the run", || (!told("summary").is_empty()).then_some(()));
    drop(follower);
    let summary = of(&shop, "summary").remove(0);
    assert!(summary.int("lost") > 0, "a ring of 4096 bytes cannot have held all this: {summary:?}");
    let lost: u64 = told("lost").iter().filter_map(|lost| lost["lost"].as_u64()).sum();
    assert_eq!(lost, summary.int("lost"), "{:?}", told("lost"));
    assert!(told("lost").iter().any(|lost| lost["reason"] == "ring_full"), "{:?}", told("lost"));
    assert_eq!((told("start").len(), told("resync").len() as u64), (1, summary.int("resyncs")));
}

#[test]
fn the_journal_has_every_record_whole() {
    if has_no_tools("the_journal_has_every_record_whole", "journald") {
        return;
    }
    let _journal = Journal::new();
    let shop = Shop::new();
    let pipeline = shop.start("journal");
    let journal = || output(shop.shell("journalctl --quiet --identifier=tcptrace --output=cat --no-pager"));
    let come = |wanted: &dyn Fn(&Record) -> bool| {
        poll_until("a record in the journal", || records(&journal()).iter().any(wanted).then_some(()));
    };
    come(&|record| record.is("start"));
    let story = Story::new("journal", |event, socket| come(&|record| record.is_about(event, socket)));
    assert!(pipeline.stop().success(), "{}", shop.read("journal.err"));
    come(&|record| record.is("summary"));
    let text = journal();
    story.assert_told(&records(&text));
    let read = values(&output(shop.command("journal-read")));
    let wanted = |record: &Value| record["event"] == "stuck" || record["event"] == "cleared";
    assert_eq!(read, values(&text).into_iter().filter(wanted).collect::<Vec<_>>());
}

#[test]
fn the_service_is_one_that_systemd_takes() {
    if has_no_tools("the_service_is_one_that_systemd_takes", "systemd-analyze") {
        return;
    }
    let shop = Shop::new();
    let unit = shop.block("tcptrace.service");
    let installed = "/usr/local/bin/tcptrace";
    assert!(unit.contains(installed), "{unit}");
    assert!(unit.contains("\n[Install]\nWantedBy="), "nothing to enable: {unit}");
    let path = shop.path("tcptrace.service");
    let unit = unit.replace(installed, &tracer_program().display().to_string());
    std::fs::write(&path, unit).expect("room on the disk");
    // It succeeds where it does not know a setting, and says so.
    let mut verify = shop.shell("systemd-analyze verify --man=no \"$0\"");
    verify.arg(path);
    assert_eq!(output(verify), "");
}

#[test]
fn rsyslog_parses_every_record_and_writes_a_line_for_each_holder() {
    if has_no_tools("rsyslog_parses_every_record_and_writes_a_line_for_each_holder", "rsyslog") {
        return;
    }
    let shop = Shop::new();
    // What stands for /etc/rsyslog.conf.
    let main = shop.path("main.conf");
    let included = shop.file("rsyslog.conf");
    let folder = included.parent().expect("it is in the folder");
    let text =
        format!("global(workDirectory=\"{}\")\ninclude(file=\"{}\")\n", folder.display(), included.display());
    std::fs::write(&main, text).expect("room on the disk");
    let mut daemon = shop.shell("exec rsyslogd -n -iNONE -f \"$0\" 2> \"$0.err\"");
    let mut daemon = Process::spawn(daemon.arg(main).stdout(Stdio::null()).stderr(Stdio::null()));
    let story = record(&shop, "rsyslog");
    let parsed = || values(&shop.read("tcptrace-records.json"));
    poll_until("the last record", || {
        assert!(daemon.ended().is_none(), "rsyslogd ended: {}", shop.read("main.conf.err"));
        parsed().iter().any(|record| record["event"] == "summary").then_some(())
    });
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert_eq!(shop.read("tcptrace-not-parsed.log"), "");

    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = host.split('.').next().unwrap_or_default().to_owned();
    let mut expected = values(&shop.read("tcptrace.json"));
    expected.iter_mut().for_each(|record| record["log_host"] = host.clone().into());
    assert_eq!(parsed(), expected);

    let lines = shop.read("tcptrace-stuck.log");
    let of = |socket: &Sock| {
        let [local, remote] = [socket.local, socket.remote.expect("connected")];
        let ends =
            format!(" {} {} from {} {} not_closed", local.ip(), local.port(), remote.ip(), remote.port());
        let its = lines.lines().filter_map(|line| line.strip_suffix(&*ends)?.split_once(' '));
        its.map(|(_, holder)| holder.to_owned()).collect::<Vec<_>>()
    };
    for socket in story.left {
        assert_eq!(of(&socket), [format!("rsyslog-server/{} fd {}", socket.pid, socket.fd)], "{lines}");
    }
    let listed = story.listed().into_iter().map(|(pid, fd)| format!("rsyslog-crowd/{pid} fd {fd}"));
    assert_eq!(of(&story.crowded), listed.collect::<Vec<_>>());
}
