//! Figures → the text that Prometheus reads (its exposition format 0.0.4, which all other scrapers read too): for each
//! metric its meaning, its type, and a line for each set of labels.
//!
//! docs/metrics.md has the same as a table; a test compares the two.

use std::fmt::{Display, Write as _};

use crate::{
    events::{Figures, ProcessFigures, ProcessRecord, SocketFigures, Summary, TracerInfo},
    humanize::name::printable_name,
};

/// The media type of what [`render_page`] returns.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Clone, Copy)]
enum Kind {
    /// A total that only grows as long as tcptrace runs.
    Counter,
    /// What is now.
    Gauge,
}

use Kind::{Counter, Gauge};

/// Renders all metrics as text. A value that is not known has no line. Metrics of a view that is off are
/// left out.
pub fn render_page(figures: &Figures) -> String {
    let Figures { tracer, views, threshold_ns, totals, sockets, processes } = figures;
    let mut page = Page::default();
    page.tracer(tracer);
    page.by_state(sockets);
    page.totals(totals);
    if views.lives {
        page.one("life_records_total", Counter, "Connections told when they were over.", totals.lives);
    }
    if views.stuck {
        page.stuck(totals, sockets, *threshold_ns as f64 / 1e9);
        page.processes(processes);
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn tracer(&mut self, tracer: &TracerInfo) {
        let TracerInfo { version, kernel, features } = tracer;
        let version = labels(&[("version", version)]);
        self.metric("build_info", Gauge, "Always 1; the label tells tcptrace's version.", [(version, 1)]);
        let release = labels(&[("release", kernel)]);
        self.metric("kernel_info", Gauge, "Always 1; the label tells the kernel's release.", [(release, 1)]);
        let features = features.iter();
        self.metric(
            "kernel_feature_in_use",
            Gauge,
            "Whether a feature of the kernel is in use: 1, or 0 where it is missing or not needed.",
            features.map(|(name, in_use)| (labels(&[("feature", name)]), u8::from(*in_use))),
        );
    }

    fn by_state(&mut self, sockets: &SocketFigures) {
        let by_state = sockets.by_state.iter();
        self.metric(
            "sockets",
            Gauge,
            "TCP sockets now in each state that is followed, in all network namespaces, whatever is filtered; \
             without TIME_WAIT and other stand-ins of the kernel, and without SYN queues.",
            by_state.map(|(state, count)| (labels(&[("state", state.kernel_name())]), count)),
        );
    }

    fn totals(&mut self, totals: &Summary) {
        let by_reason = [("ring_full", totals.lost - totals.skipped), ("skipped", totals.skipped)];
        self.metric(
            "lost_transitions_total",
            Counter,
            "Transitions lost because the ring buffer was full, or because the kernel did not run the program; after \
             each loss all sockets are looked at again.",
            by_reason.map(|(reason, lost)| (labels(&[("reason", reason)]), lost)),
        );
        for (name, help, total) in [
            (
                "transitions_total",
                "TCP state transitions seen: all, or with --stuck alone those from or into a watched state.",
                totals.transitions,
            ),
            ("resyncs_total", "Looks at all sockets after a loss.", totals.resyncs),
            (
                "dropped_records_total",
                "Records not written because the reader of stdout was too slow.",
                totals.dropped,
            ),
            ("filtered_records_total", "Records that the filters kept back.", totals.filtered),
        ] {
            self.one(name, Counter, help, total);
        }
    }

    fn stuck(&mut self, totals: &Summary, sockets: &SocketFigures, threshold_s: f64) {
        self.one(
            "stuck_records_total",
            Counter,
            "Sockets reported stuck, each once: reminders are not counted.",
            totals.stuck,
        );
        self.one(
            "cleared_records_total",
            Counter,
            "Stuck sockets reported to have left their state.",
            totals.cleared,
        );
        self.one(
            "stuck_threshold_seconds",
            Gauge,
            "How long a socket has to be in a watched state to be stuck, seconds.",
            threshold_s,
        );
        let stuck =
            || sockets.stuck.iter().map(|stuck| (labels(&[("state", stuck.state.kernel_name())]), stuck));
        self.metric(
            "stuck_sockets",
            Gauge,
            "Sockets now stuck in each watched state that were reported.",
            stuck().map(|(labels, stuck)| (labels, stuck.count)),
        );
        self.metric(
            "stuck_oldest_seconds",
            Gauge,
            "How long the oldest of them has been in that state at least, seconds.",
            stuck().filter_map(|(labels, stuck)| Some((labels, stuck.oldest_ns? as f64 / 1e9))),
        );
    }

    fn processes(&mut self, processes: &ProcessFigures) {
        type Figure = fn(&ProcessRecord) -> Option<f64>;
        let ProcessFigures { shown, not_shown } = processes;
        let shown: Vec<_> = shown.iter().map(|process| (labels_of(process), process)).collect();
        let figures: [(&str, &str, Figure); 8] = [
            (
                "process_stuck_sockets",
                "Stuck sockets that a process holds, or has not accepted.",
                |process| Some(process.stuck as f64),
            ),
            (
                "process_stuck_shared_sockets",
                "How many of these are charged to other processes as well.",
                |process| Some(process.shared as f64),
            ),
            (
                "process_stuck_oldest_seconds",
                "How long the oldest of them has been in its state at least, seconds.",
                // Microseconds, so that no more decimals come of it than there are.
                |process| Some((process.oldest_ms? * 1e3).round() / 1e6),
            ),
            (
                "process_stuck_growth_per_minute",
                "How many more of them there are each minute, or below 0 fewer: net, now, without single bursts.",
                |process| process.growth_is_known.then_some(process.growth_per_min),
            ),
            ("process_open_fds", "File descriptors that such a process has open.", |process| {
                Some(process.fds_open? as f64)
            }),
            (
                "process_max_fds",
                "File descriptors that such a process may have open: its soft limit.",
                |process| Some(process.fds_limit? as f64),
            ),
            (
                "process_fds_growth_per_minute",
                "How many more file descriptors such a process has open each minute, or below 0 fewer.",
                |process| process.fds_growth_per_min.filter(|_| process.fds_growth_is_known),
            ),
            (
                "process_fds_full_seconds",
                "In how many seconds such a process runs out of file descriptors at the growth of all of them; 0 if \
                 it has.",
                |process| process.fds_full_in_s,
            ),
        ];
        for (name, help, figure) in figures {
            let known = shown.iter().filter_map(|(labels, process)| Some((labels, figure(process)?)));
            self.metric(name, Gauge, help, known);
        }
        self.one(
            "processes_not_shown",
            Gauge,
            "Processes with stuck sockets that have no metrics of their own, because others have more.",
            not_shown,
        );
    }

    /// A metric without labels.
    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.metric(name, kind, help, [("", value)]);
    }

    /// A metric and its values, each with its labels as [`labels`] writes them.
    fn metric<L: Display, V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) {
        let kind = match kind {
            Counter => "counter",
            Gauge => "gauge",
        };
        let page = &mut self.0;
        let _infallible = writeln!(page, "# HELP tcptrace_{name} {help}\n# TYPE tcptrace_{name} {kind}");
        for (labels, value) in values {
            let _infallible = writeln!(page, "tcptrace_{name}{labels} {value}");
        }
    }
}

/// Of a process: its pid, and its name as text shows it, so that no name is more than a name to who looks at the page.
fn labels_of(process: &ProcessRecord) -> String {
    let comm = process.comm.as_ref().map(printable_name).unwrap_or_default();
    labels(&[("pid", &process.pid.to_string()), ("comm", &comm)])
}

/// `{name="value",…}`; a backslash, a quote and the end of a line are escaped in a value.
fn labels(labels: &[(&str, &str)]) -> String {
    let mut text = String::from("{");
    for (name, value) in labels {
        let comma = if text.len() > 1 { "," } else { "" };
        let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        let _infallible = write!(text, r#"{comma}{name}="{value}""#);
    }
    text.push('}');
    text
}
