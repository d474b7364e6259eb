//! docs/pipelines.md: what it shows is run as it stands there, on what real sockets do, and what comes out at the other end
//! is held against what the test did to them. What the parts of a test are: `tests/src/pipeline.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
};

use serde_json::Value;
use tests::{
    Process, Puppet, Record, Signal, Sock, feature,
    journal::Journal,
    pipeline::{Shop, block, has_no_tools, output, records, rows, values},
    process::poll_until,
    scene::Scene,
    schema, witness,
};

/// How many children hold one of the stuck sockets: more than fit into 8 KiB.
const CROWD: usize = 80;

/// What several processes did to sockets.
struct Story {
    scene: Scene,
    /// The server's, still stuck.
    left: [Sock; 2],
    /// The server's, stuck, and then closed by it.
    closed: Sock,
    /// Who ended with one that was stuck, and which.
    ended: (u32, Sock),
    /// Held by the first and so many children, still stuck.
    crowded: Sock,
    crowd: Puppet,
    /// Both ends of a connection that is over: (client's, server's).
    talked: (Sock, Sock),
}

const SENT: u64 = 1_000;
const ANSWERED: u64 = 500;

impl Story {
    /// Waits for each record by `await_record`; processes are named after `name`.
    fn new(name: &str, await_record: impl Fn(&str, &Sock)) -> Self {
        let mut scene = Scene::new();
        scene.client.rename(format!("{name}-client").as_bytes());
        scene.server.rename(format!("{name}-server").as_bytes());
        let [closed, left @ ..] = [scene.leak().socket, scene.leak().socket, scene.leak().socket];

        let mut leak_of = |name: &str| {
            let mut puppet = Puppet::new();
            puppet.rename(name.as_bytes());
            let listener = puppet.listen("127.0.0.1:0");
            let client = scene.client.connect(listener.local);
            let socket = puppet.accept(&listener);
            scene.client.close(&client);
            puppet.read_to_the_end(&socket);
            (puppet, socket)
        };
        let (other, others) = leak_of(&format!("{name}-other"));
        let (mut crowd, crowded) = leak_of(&format!("{name}-crowd"));
        (0..CROWD).for_each(|_| _ = crowd.fork());

        let talked = scene.connection();
        scene.client.write(&talked.0, SENT as usize);
        scene.server.read(&talked.1, SENT as usize);
        scene.server.write(&talked.1, ANSWERED as usize);
        scene.client.read(&talked.0, ANSWERED as usize);
        scene.client.close(&talked.0);
        scene.server.read_to_the_end(&talked.1);
        scene.server.close(&talked.1);

        [closed, left[0], left[1], others, crowded].iter().for_each(|socket| await_record("stuck", socket));
        scene.server.close(&closed);
        let ended = (other.pid(), others);
        other.exit();
        [closed, others].iter().for_each(|socket| await_record("cleared", socket));
        [talked.0, talked.1, closed, others].iter().for_each(|socket| await_record("life", socket));
        Self { scene, left, closed, ended, crowded, crowd, talked }
    }

    /// Records, wherever they have been, say what happened.
    fn assert_told(&self, records: &[Record]) {
        let (first, last) = (&records[0], &records[records.len() - 1]);
        assert!(first.is("start") && last.is("summary"), "{first:?} … {last:?}");
        let one = |event, socket| {
            let its: Vec<_> = records.iter().filter(|record| record.is_about(event, socket)).collect();
            assert_eq!(its.len(), 1, "{event} of {socket:?}: {its:?}");
            its[0]
        };
        for socket in [&self.left[0], &self.left[1], &self.closed, &self.ended.1] {
            assert_eq!(one("stuck", socket).holders(), [(socket.pid, socket.fd)]);
        }
        let crowded = one("stuck", &self.crowded);
        assert_eq!(crowded.holders(), witness::find(&self.crowded).expect("it is still there").holders);
        assert_eq!(crowded.holders().len(), CROWD + 1);
        for (socket, how) in [(&self.closed, "closed"), (&self.ended.1, "exited")] {
            let cleared = one("cleared", socket);
            assert_eq!((cleared.text("how"), &cleared.get("by")["pid"]), (how, &socket.pid.into()));
        }
        for socket in [&self.talked.0, &self.talked.1, &self.closed, &self.ended.1] {
            one("life", socket);
        }
        for (event, total) in [("stuck", "stuck"), ("cleared", "cleared"), ("life", "lives")] {
            let come = records.iter().filter(|record| record.is(event)).count() as u64;
            assert_eq!(last.int(total), come, "records of {event}");
        }
    }
}

/// Records a story in the file that the tracer writes to.
fn record(shop: &Shop, name: &str) -> Story {
    let tracer = shop.start("record");
    shop.await_record("the start", |record| record.is("start"));
    let story = Story::new(name, |event, socket| {
        shop.await_record(&format!("{event} of {socket:?}"), |record| record.is_about(event, socket));
    });
    assert!(tracer.stop().success(), "{}", shop.read("record.err"));
    story.assert_told(&shop.records("tcptrace.json"));
    story
}

/// The file's records of an event, of whatever socket.
fn of(shop: &Shop, event: &str) -> Vec<Record> {
    shop.records("tcptrace.json").into_iter().filter(|record| record.is(event)).collect()
}

#[test]
fn jq_tells_who_is_stuck_and_what_ended_it() {
    const TEST: &str = "jq_tells_who_is_stuck_and_what_ended_it";
    if has_no_tools(TEST, "jq") {
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
    assert_eq!(row(pid), Some(vec![&*pid.to_string(), "jq-server", "2", &oldest, "not_closed"]), "{stuck}");
    let pid = story.crowd.pid();
    let crowd =
        vec![pid.to_string(), "jq-crowd".into(), "1".into(), since(&story.crowded), "not_closed".into()];
    assert_eq!(row(pid).map(|row| row.join(" ")), Some(crowd.join(" ")));
    assert_eq!(stuck.matches("jq-crowd").count(), CROWD + 1, "{stuck}");
    assert_eq!(row(story.ended.0), None, "it has ended");

    let cleared = output(shop.command("cleared"));
    for (socket, how, comm) in
        [(&story.closed, "closed", "jq-server"), (&story.ended.1, "exited", "jq-other")]
    {
        let pid = socket.pid.to_string();
        let rows: Vec<_> = rows(&cleared).into_iter().filter(|row| row[5] == pid).collect();
        assert_eq!(rows.len(), 1, "{cleared}");
        assert_eq!((rows[0][1], rows[0][3], rows[0][4]), (&*socket.local.port().to_string(), how, comm));
        assert!(rows[0][2].parse::<f64>().is_ok_and(|ms| ms >= 300.0), "{cleared}");
    }

    if feature::is_missing(feature::TP_BTF, TEST) {
        return;
    }
    let endings = output(shop.command("endings"));
    let ending = |comm: &str| -> Vec<String> {
        let rows = rows(&endings).into_iter().filter(|row| row[0] == comm);
        rows.map(|row| row[1..5].join(" ")).collect()
    };
    assert_eq!(ending("jq-client"), [format!("local_close 6 {SENT} {ANSWERED}")], "{endings}");
    assert_eq!(ending("jq-server"), [format!("peer_close 2 {ANSWERED} {SENT}")], "{endings}");
    assert_eq!(ending("jq-other"), ["exit 1 0 0"], "{endings}");
}

#[test]
fn jq_tells_the_volume_and_samples_without_losing_what_matters() {
    if has_no_tools("jq_tells_the_volume_and_samples_without_losing_what_matters", "jq") {
        return;
    }
    let shop = Shop::new().with("--transitions");
    record(&shop, "volume");
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
    assert!(kept.len() < all.len() && kept.iter().any(|record| record["event"] == "stuck"));
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
        its.map(|row| (row[5].to_owned(), row[6].to_owned(), row[7].to_owned())).collect::<Vec<_>>()
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
    assert!(told("lost").iter().all(|lost| lost["reason"] == "ring_full"), "{:?}", told("lost"));
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
fn rsyslog_parses_every_record_and_writes_a_line_for_each_holder() {
    if has_no_tools("rsyslog_parses_every_record_and_writes_a_line_for_each_holder", "rsyslog") {
        return;
    }
    let shop = Shop::new();
    // What stands for /etc/rsyslog.conf.
    let main = shop.path("main.conf");
    let included = shop.configuration("rsyslog.conf");
    let folder = included.parent().expect("it is in the folder");
    let text =
        format!("global(workDirectory=\"{}\")\ninclude(file=\"{}\")\n", folder.display(), included.display());
    std::fs::write(&main, text).expect("room on the disk");
    let mut daemon = shop.shell("exec rsyslogd -n -iNONE -f \"$0\"");
    let mut daemon = Process::spawn(daemon.arg(main).stdout(Stdio::null()).stderr(Stdio::inherit()));
    let story = record(&shop, "rsyslog");
    let parsed = || values(&shop.read("tcptrace-records.json"));
    poll_until("the last record", || {
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
    let holders = witness::find(&story.crowded).expect("it is still there").holders;
    let holders: Vec<_> = holders.iter().map(|(pid, fd)| format!("rsyslog-crowd/{pid} fd {fd}")).collect();
    assert_eq!(of(&story.crowded), holders);
}

/// The rows of a query of the document, by column.
fn query(shop: &Shop, name: &str) -> Vec<BTreeMap<String, String>> {
    ask(shop, &block(name))
}

fn ask(shop: &Shop, sql: &str) -> Vec<BTreeMap<String, String>> {
    let mut command = shop.command("duckdb");
    command.env("QUERY", sql);
    let text = output(command);
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let columns: Vec<String> = lines.next().expect("a heading").collect();
    lines.map(|line| columns.iter().cloned().zip(line).collect()).collect()
}

#[test]
fn duckdb_has_a_column_for_every_field() {
    if has_no_tools("duckdb_has_a_column_for_every_field", "DuckDB") {
        return;
    }
    let shop = Shop::new();
    let _story = record(&shop, "columns");
    let rows = ask(&shop, "SELECT column_name FROM (DESCRIBE records)");
    let columns: BTreeSet<_> = rows.iter().map(|row| row["column_name"].clone()).collect();
    let document = schema::document();
    let definitions = document["$defs"].as_object().expect("definitions").iter();
    let records = definitions.filter(|(name, _)| name.starts_with("record_"));
    let fields: BTreeSet<String> = records
        .flat_map(|(_, schema)| schema["properties"].as_object().expect("fields").keys().cloned())
        .collect();
    assert_eq!(columns, fields);
    // Each value of the file is there, in the type that the view says it has.
    let all = values(&shop.read("tcptrace.json"));
    let counts: Vec<_> = fields.iter().map(|field| format!("count(\"{field}\") AS \"{field}\"")).collect();
    let counted = ask(&shop, &format!("SELECT {} FROM records", counts.join(", "))).remove(0);
    for field in fields {
        let set =
            all.iter().filter(|record| record.get(&field).is_some_and(|value| !value.is_null())).count();
        assert_eq!(counted[&field], set.to_string(), "{field}");
    }
}

#[test]
fn duckdb_sums_up_stuck_sockets_and_connections() {
    const TEST: &str = "duckdb_sums_up_stuck_sockets_and_connections";
    if has_no_tools(TEST, "DuckDB") || feature::is_missing(feature::TP_BTF, TEST) {
        return;
    }
    let shop = Shop::new();
    let story = record(&shop, "sql");
    let stuck = query(&shop, "stuck-per-hour");
    let sum = |pid: u32| -> u64 {
        let its = stuck.iter().filter(|row| row["pid"] == pid.to_string());
        its.map(|row| row["sockets"].parse::<u64>().expect("a count")).sum()
    };
    // In one hour, or in two.
    assert_eq!((sum(story.scene.server.pid()), sum(story.ended.0), sum(story.crowd.pid())), (3, 1, 1));
    assert_eq!(stuck.iter().filter(|row| row["comm"] == "sql-crowd").count(), CROWD + 1);

    let cleared = query(&shop, "cleared-by");
    let count = |how: &str, comm: &str| {
        cleared.iter().find(|row| row["how"] == how && row["comm"] == comm).map(|row| &*row["sockets"])
    };
    assert_eq!((count("closed", "sql-server"), count("exited", "sql-other")), (Some("1"), Some("1")));

    let services = query(&shop, "services");
    let port = story.scene.listener.local.port();
    let service = services.iter().find(|row| row["remote_port"] == port.to_string()).expect("its server");
    let told: Vec<_> =
        ["connections", "failed", "sent", "received"].iter().map(|column| &*service[*column]).collect();
    assert_eq!(told, ["4", "0", &SENT.to_string(), &ANSWERED.to_string()]);
    let lives = of(&shop, "life");
    let lives = lives.iter().filter(|life| life.text("role") == "client" && life.remote().port() == port);
    let mut ms: Vec<f64> = lives.clone().map(|life| life.number("duration_ms")).collect();
    let mut rtt: Vec<u64> = lives.map(|life| life.int("rtt_us")).collect();
    ms.sort_by(f64::total_cmp);
    rtt.sort_unstable();
    assert_eq!(ms.len(), 4);
    let number = |column: &str| service[column].parse::<f64>().expect("a number");
    assert_eq!((number("ms"), number("ms_p99")), (ms[1], ms[3]));
    assert_eq!((number("rtt_us"), number("rtt_us_p99")), (rtt[1] as f64, rtt[3] as f64));
}
