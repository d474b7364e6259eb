//! docs/pipelines.md: its part about DuckDB. `pipelines.rs` has the others.

use std::collections::{BTreeMap, BTreeSet};

use tests::{
    Record, feature,
    pipeline::{ANSWERED, SENT, Shop, has_no_tools, output, record, values},
    schema,
};

/// Returns the rows of a query of the document, by column.
fn query(shop: &Shop, name: &str) -> Vec<BTreeMap<String, String>> {
    ask(shop, &shop.block(name))
}

fn ask(shop: &Shop, sql: &str) -> Vec<BTreeMap<String, String>> {
    let mut command = shop.command("duckdb");
    command.env("QUERY", sql);
    let text = output(command);
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let columns: Vec<String> = lines.next().into_iter().flatten().collect();
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
    assert_eq!(stuck.iter().filter(|row| row["comm"] == "sql-crowd").count(), schema::LISTED);

    query(&shop, "parquet");
    let kept =
        ask(&shop, &format!("SELECT count(*) AS records FROM '{}'", shop.path("tcptrace.parquet").display()));
    assert_eq!(kept[0]["records"], shop.records("tcptrace.json").len().to_string());

    let cleared = query(&shop, "cleared-by");
    let count = |how: &str, comm: &str| {
        cleared.iter().find(|row| row["how"] == how && row["comm"] == comm).map(|row| &*row["sockets"])
    };
    assert_eq!((count("closed", "sql-server"), count("exited", "sql-other")), (Some("1"), Some("1")));

    let services = query(&shop, "services");
    let port = story.scene.listener.local.port();
    let service = services.iter().find(|row| row["remote_port"] == port.to_string()).expect("its server");
    let all = shop.records("tcptrace.json");
    let of_port = |life: &&Record| life.text("role") == "client" && life.remote().port() == port;
    let lives = all.iter().filter(|record| record.is("life")).filter(of_port);
    let mut ms: Vec<f64> = lives.clone().map(|life| life.number("duration_ms")).collect();
    let mut rtt: Vec<u64> = lives.map(|life| life.int("rtt_us")).collect();
    ms.sort_by(f64::total_cmp);
    rtt.sort_unstable();
    let told: Vec<_> =
        ["connections", "failed", "sent", "received"].iter().map(|column| &*service[*column]).collect();
    assert_eq!(told, [&*ms.len().to_string(), "0", &SENT.to_string(), &ANSWERED.to_string()]);
    assert!((2..=4).contains(&ms.len()), "{ms:?}");
    let [median, last] = [ms.len().div_ceil(2) - 1, ms.len() - 1];
    let number = |column: &str| service[column].parse::<f64>().expect("a number");
    assert_eq!((number("ms"), number("ms_p99")), (ms[median], ms[last]));
    assert_eq!((number("rtt_us"), number("rtt_us_p99")), (rtt[median] as f64, rtt[last] as f64));
}
