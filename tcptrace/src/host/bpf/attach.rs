//! Attaches the best programs that this kernel supports: with BTF, or else without.

use crate::host::{
    attach_error::AttachError,
    bpf::{attachment::Attachment, no_btf, with_btf},
    features::{Feature, TURNED_OFF},
    options::Options,
};

/// Loads and attaches the BPF programs.
///
/// # Errors
/// This host cannot be traced.
pub(crate) fn attach(options: &Options) -> Result<Attachment, AttachError> {
    let reason = if options.without.contains(&Feature::TpBtf) {
        TURNED_OFF.to_owned()
    } else {
        match with_btf::attach(options) {
            Err(error) if error.permits_no_btf() => error.to_string(),
            decided => return decided,
        }
    };
    no_btf::attach(options, &reason)
}
