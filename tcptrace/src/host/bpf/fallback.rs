//! The programs that record what the ones before them on the tracepoint were skipped for.

use aya::{Btf, Ebpf};

use crate::host::{
    attach_error::AttachError,
    bpf::{
        attach_targets::{Target, stub_btf},
        programs::{Link, attach_tp_btf, load_tp_btf},
    },
};

/// The fallback programs that are not attached yet. They are attached when they turn out to be
/// needed, because most hosts never need them.
pub(crate) struct FallbackPrograms {
    targets: Vec<Target>,
    /// The targets in the form that aya takes, if they were kept: where transitions are many, the
    /// next program should not be long in coming.
    btf: Option<Btf>,
    names: &'static [&'static str],
}

impl FallbackPrograms {
    /// Prepares the programs of these names.
    pub(crate) const fn new(targets: Vec<Target>, btf: Option<Btf>, names: &'static [&'static str]) -> Self {
        Self { targets, btf, names }
    }

    /// Loads and attaches the next program. Returns its name too; `None` if there is no other.
    pub(crate) fn attach_next(
        &mut self,
        ebpf: &mut Ebpf,
    ) -> Option<Result<(&'static str, Link), AttachError>> {
        let (name, rest) = self.names.split_first()?;
        self.names = rest;
        let btf = self.btf.take().map_or_else(|| stub_btf(&self.targets), Ok);
        let link = btf
            .map_err(|error| AttachError::BadBtf(error.to_string()))
            .and_then(|btf| load_tp_btf(ebpf, name, &btf))
            .and_then(|()| attach_tp_btf(ebpf, name));
        Some(link.map(|link| (*name, link)))
    }
}
