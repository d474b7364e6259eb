//! Parts of the kernel tests: the tracer under test, processes that use sockets as a test tells
//! them, network namespaces, and witnesses that know the truth independently of the tracer.
//!
//! The tests run as root. They run the tracer (`TCPTRACE_BIN`) and programs of this crate
//! (`TCPTRACE_TEST_BINS`); see [`process`].

pub mod bpf;
pub mod bpf_cost;
pub mod cgroup;
pub mod container;
pub mod feature;
pub mod journal;
pub mod life;
pub mod namespace;
pub mod pipeline;
pub mod process;
pub mod puppet;
pub mod record;
pub mod recording;
pub mod scene;
pub mod schema;
pub mod scrape;
pub mod skips;
pub mod terminal;
pub mod tracer;
pub mod user;
pub mod witness;

pub use namespace::Namespace;
pub use process::{Process, monotonic_ns, patience};
pub use puppet::{Puppet, Sock};
pub use record::Record;
pub use rustix::process::Signal;
pub use tracer::{Tracer, TracerCommand};
