//! Figures in, their text out.

use proptest::prelude::*;
use tcptrace_common::{COMM_LEN, state::CLOSE_WAIT};

use super::page::render_page;
use crate::{
    engine::assemble::process::process_record,
    events::{
        Figures, Name, ProcessFigures, ProcessRecord, SocketFigures, State, StuckFigures, Summary,
        TracerInfo, Views,
    },
};

fn figures(comm: Option<Name>, views: Views) -> Figures {
    let process = ProcessRecord {
        comm,
        oldest_ms: Some(12_256.0),
        growth_per_min: -1.5,
        fds_growth_per_min: Some(2.5),
        growth_is_known: true,
        fds_growth_is_known: true,
        fds_limit: None,
        ..process_record(
            4242,
            &crate::engine::processes::ProcessRollup {
                stuck: 3,
                shared: 1,
                fds_open: Some(9),
                ..Default::default()
            },
        )
    };
    Figures {
        tracer: TracerInfo {
            version: "1.2.3",
            kernel: "6.1.0\"\\".to_owned(),
            features: vec![("setns", false)],
        },
        views,
        threshold_ns: 1_500_000_000,
        totals: Summary { transitions: 12, lost: 3, skipped: 1, lives: 4, ..Summary::default() },
        sockets: SocketFigures {
            by_state: vec![(State(CLOSE_WAIT), 3)],
            stuck: vec![StuckFigures { state: State(CLOSE_WAIT), count: 2, oldest_ns: Some(90_500_000_000) }],
        },
        processes: ProcessFigures { shown: vec![process], not_shown: 5 },
    }
}

const ALL_VIEWS: Views = Views { transitions: true, stuck: true, lives: true };

/// The lines of a metric's values.
fn values<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let is_its = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    page.lines().filter(is_its).collect()
}

#[test]
fn a_page_has_each_figure_in_its_unit() {
    let page = render_page(&figures(Some(Name::from_bytes(b"java")), ALL_VIEWS));
    for line in [
        r#"tcptrace_build_info{version="1.2.3"} 1"#,
        r#"tcptrace_kernel_info{release="6.1.0\"\\"} 1"#,
        r#"tcptrace_kernel_feature_in_use{feature="setns"} 0"#,
        r#"tcptrace_sockets{state="CLOSE_WAIT"} 3"#,
        "tcptrace_transitions_total 12",
        r#"tcptrace_lost_transitions_total{reason="ring_full"} 2"#,
        r#"tcptrace_lost_transitions_total{reason="skipped"} 1"#,
        "tcptrace_life_records_total 4",
        "tcptrace_stuck_threshold_seconds 1.5",
        r#"tcptrace_stuck_sockets{state="CLOSE_WAIT"} 2"#,
        r#"tcptrace_stuck_oldest_seconds{state="CLOSE_WAIT"} 90.5"#,
        r#"tcptrace_process_stuck_sockets{pid="4242",comm="java"} 3"#,
        r#"tcptrace_process_stuck_oldest_seconds{pid="4242",comm="java"} 12.256"#,
        r#"tcptrace_process_stuck_growth_per_minute{pid="4242",comm="java"} -1.5"#,
        r#"tcptrace_process_stuck_shared_sockets{pid="4242",comm="java"} 1"#,
        r#"tcptrace_process_fds_growth_per_minute{pid="4242",comm="java"} 2.5"#,
        r#"tcptrace_process_open_fds{pid="4242",comm="java"} 9"#,
        "tcptrace_processes_not_shown 5",
    ] {
        assert!(page.lines().any(|other| other == line), "no {line} in\n{page}");
    }
    for unknown in ["tcptrace_process_max_fds", "tcptrace_process_fds_full_seconds"] {
        assert_eq!(values(&page, unknown), [""; 0], "it is not known");
        assert!(page.contains(&format!("# TYPE {unknown} gauge\n")), "{page}");
    }
}

#[test]
fn what_belongs_to_another_view_is_not_served() {
    let page = render_page(&figures(None, Views { stuck: false, lives: false, ..ALL_VIEWS }));
    assert!(page.contains("tcptrace_sockets{") && page.contains("tcptrace_transitions_total 12\n"));
    for of_a_view in ["_stuck_", "_process", "_cleared_", "_life_"] {
        assert!(!page.contains(of_a_view), "{of_a_view} in\n{page}");
    }
}

proptest! {
    #[test]
    fn any_name_is_one_label_and_nothing_more(bytes in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..COMM_LEN),
        r#"["\\\n\r},{= a]{0,15}"#.prop_map(String::into_bytes),
    ]) {
        let page = render_page(&figures(Some(Name::from_bytes(&bytes)), ALL_VIEWS));
        let lines = values(&page, "tcptrace_process_stuck_sockets");
        prop_assert_eq!(lines.len(), 1);
        let value = lines[0].strip_prefix(r#"tcptrace_process_stuck_sockets{pid="4242",comm=""#)
            .and_then(|rest| rest.strip_suffix(r#""} 3"#));
        let mut escaped = false;
        for c in value.expect("between quotes").chars() {
            prop_assert!(escaped || c != '"', "{}", lines[0]);
            prop_assert!(!escaped || matches!(c, '\\' | '"' | 'n'), "{}", lines[0]);
            prop_assert!(!c.is_control(), "{:?}", lines[0]);
            escaped = c == '\\' && !escaped;
        }
        prop_assert!(!escaped, "{}", lines[0]);
    }
}
