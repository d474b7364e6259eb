//! Renders figures in the text format that Prometheus and all other scrapers read (exposition
//! format 0.0.4): for each metric its help, its type, and a line for each set of labels.
//!
//! docs/metrics.md lists the same metrics. A test compares the two.

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
    /// A total, which only grows while tcptrace runs.
    Counter,
    /// A value of the moment.
    Gauge,
}

use Kind::{Counter, Gauge};

/// Renders all metrics as text. A value that is not known has no line. Metrics of a view that is
/// off are left out.
pub fn render_page(figures: &Figures) -> String {
    let Figures { tracer, views, threshold_ns, totals, sockets, processes } = figures;
    let mut page = Page::default();
    page.add_tracer(tracer);
    page.by_state(sockets);
    page.add_totals(totals);
    if views.lives {
        page.add_single("life_records_total", Counter, "Connections told when they were over.", totals.lives);
    }
    if views.stuck {
        page.add_stuck_figures(totals, sockets, to_f64(*threshold_ns) / 1e9);
        page.add_processes(processes);
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn add_tracer(&mut self, tracer: &TracerInfo) {
        let TracerInfo { version, kernel, features } = tracer;
        let version = format_labels(&[("version", version)]);
        self.add_metric("build_info", Gauge, "Always 1; the label tells tcptrace's version.", [(version, 1)]);
        let release = format_labels(&[("release", kernel)]);
        self.add_metric(
            "kernel_info",
            Gauge,
            "Always 1; the label tells the kernel's release.",
            [(release, 1)],
        );
        let features = features.iter();
        self.add_metric(
            "kernel_feature_in_use",
            Gauge,
            "Whether a feature of the kernel is in use: 1, or 0 where it is missing or not needed.",
            features.map(|(name, in_use)| (format_labels(&[("feature", name)]), u8::from(*in_use))),
        );
    }

    fn by_state(&mut self, sockets: &SocketFigures) {
        let by_state = sockets.by_state.iter();
        self.add_metric(
            "sockets",
            Gauge,
            "TCP sockets now in each state that is followed, in all network namespaces, whatever is filtered; \
             without TIME_WAIT and other stand-ins of the kernel, and without SYN queues.",
            by_state.map(|(state, count)| (format_labels(&[("state", state.kernel_name())]), count)),
        );
    }

    fn add_totals(&mut self, totals: &Summary) {
        let by_reason = [("ring_full", totals.lost - totals.skipped), ("skipped", totals.skipped)];
        self.add_metric(
            "lost_transitions_total",
            Counter,
            "Transitions lost because the ring buffer was full, or because the kernel did not run the program; after \
             each loss all sockets are looked at again.",
            by_reason.map(|(reason, lost)| (format_labels(&[("reason", reason)]), lost)),
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
            self.add_single(name, Counter, help, total);
        }
    }

    fn add_stuck_figures(&mut self, totals: &Summary, sockets: &SocketFigures, threshold_s: f64) {
        self.add_single(
            "stuck_records_total",
            Counter,
            "Sockets reported stuck, each once: reminders are not counted.",
            totals.stuck,
        );
        self.add_single(
            "cleared_records_total",
            Counter,
            "Stuck sockets reported to have left their state.",
            totals.cleared,
        );
        self.add_single(
            "stuck_threshold_seconds",
            Gauge,
            "How long a socket has to be in a watched state to be stuck, seconds.",
            threshold_s,
        );
        let stuck = || {
            sockets.stuck.iter().map(|stuck| (format_labels(&[("state", stuck.state.kernel_name())]), stuck))
        };
        self.add_metric(
            "stuck_sockets",
            Gauge,
            "Sockets now stuck in each watched state that were reported.",
            stuck().map(|(labels, stuck)| (labels, stuck.count)),
        );
        self.add_metric(
            "stuck_oldest_seconds",
            Gauge,
            "How long the oldest of them has been in that state at least, seconds.",
            stuck().filter_map(|(labels, stuck)| Some((labels, to_f64(stuck.oldest_ns?) / 1e9))),
        );
    }

    fn add_processes(&mut self, processes: &ProcessFigures) {
        type Figure = fn(&ProcessRecord) -> Option<f64>;
        let ProcessFigures { shown, not_shown } = processes;
        let shown: Vec<_> = shown.iter().map(|process| (labels_of(process), process)).collect();
        let figures: [(&str, &str, Figure); 8] = [
            (
                "process_stuck_sockets",
                "Stuck sockets that a process holds, or has not accepted.",
                |process| Some(to_f64(process.stuck as u64)),
            ),
            (
                "process_stuck_shared_sockets",
                "How many of these are charged to other processes as well.",
                |process| Some(to_f64(process.shared as u64)),
            ),
            (
                "process_stuck_oldest_seconds",
                "How long the oldest of them has been in its state at least, seconds.",
                // Rounded to microseconds: the division adds no decimals of its own.
                |process| Some((process.oldest_ms? * 1e3).round() / 1e6),
            ),
            (
                "process_stuck_growth_per_minute",
                "How many more of them there are each minute, or below 0 fewer: net, now, without single bursts.",
                |process| process.growth_is_known.then_some(process.growth_per_min),
            ),
            ("process_open_fds", "File descriptors that such a process has open.", |process| {
                Some(to_f64(process.fds_open?))
            }),
            (
                "process_max_fds",
                "File descriptors that such a process may have open: its soft limit.",
                |process| Some(to_f64(process.fds_limit?)),
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
            self.add_metric(name, Gauge, help, known);
        }
        self.add_single(
            "processes_not_shown",
            Gauge,
            "Processes with stuck sockets that have no metrics of their own, because others have more.",
            not_shown,
        );
    }

    /// Appends a metric without labels.
    fn add_single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.add_metric(name, kind, help, [("", value)]);
    }

    /// Appends a metric and its values, each with its labels as [`format_labels`] formats them.
    fn add_metric<L: Display, V: Display>(
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

/// Converts a number to a value of a metric.
#[expect(clippy::cast_precision_loss, reason = "a value is a 64-bit float in the format itself")]
const fn to_f64(number: u64) -> f64 {
    number as f64
}

/// Formats the labels of a process: its pid, and its name, escaped as in text.
fn labels_of(process: &ProcessRecord) -> String {
    let comm = process.comm.as_ref().map(printable_name).unwrap_or_default();
    format_labels(&[("pid", &process.pid.to_string()), ("comm", &comm)])
}

/// Formats labels, `{name="value",…}`. Backslashes, quotes and line ends in values are escaped.
fn format_labels(labels: &[(&str, &str)]) -> String {
    let mut text = String::from("{");
    for (name, value) in labels {
        let comma = if text.len() > 1 { "," } else { "" };
        let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        let _infallible = write!(text, r#"{comma}{name}="{value}""#);
    }
    text.push('}');
    text
}
