//! Finds out, by trying, which helpers this kernel lets tracing programs call.

use std::{panic::resume_unwind, thread::ScopedJoinHandle};

use aya::{Btf, BtfError, Ebpf, EbpfLoader};
use tcptrace_common::{
    BpfConfig,
    names::programs::{TCP_SOCKETS, TRANSITION},
};

use crate::host::{
    attach_error::AttachError,
    bpf::{
        object,
        programs::{load_iter, load_tp_btf},
    },
    features::{Feature, FeatureStatus, NOT_NEEDED, TURNED_OFF},
    options::Options,
};

/// The helpers that tracing programs may call only on newer kernels, each with what is known of
/// it.
#[derive(Clone, Copy)]
pub(crate) struct Helpers<T = bool> {
    /// The helper `bpf_get_socket_cookie`.
    pub(crate) cookie: T,
    /// The helper `bpf_sk_storage_get`.
    pub(crate) storage: T,
}

/// The combinations to try, the best first.
const ATTEMPTS: [Helpers; 4] = [
    Helpers { cookie: true, storage: true },
    Helpers { cookie: true, storage: false },
    Helpers { cookie: false, storage: true },
    Helpers { cookie: false, storage: false },
];

/// Creates the maps and loads the one program that is indispensable, with as many helpers as the
/// kernel lets it call. `btf` is being made meanwhile.
///
/// # Errors
/// The kernel refuses the program with any helpers, or something else fails.
pub(crate) fn load_first(
    loader: &mut EbpfLoader<'static>,
    options: &Options,
    config: impl Fn(Helpers) -> BpfConfig,
    btf: ScopedJoinHandle<'_, Result<Btf, BtfError>>,
) -> Result<(Ebpf, Helpers<FeatureStatus>, Btf), AttachError> {
    let is_off = |feature| options.without.contains(&feature);
    let allowed = Helpers {
        cookie: !is_off(Feature::Cookie),
        // Without transitions nothing is ever put into the storage of a socket.
        storage: !is_off(Feature::Storage) && options.transitions,
    };
    let storage_off = if options.transitions { TURNED_OFF } else { NOT_NEEDED };
    let mut reasons = Helpers { cookie: TURNED_OFF.to_owned(), storage: storage_off.to_owned() };
    let (mut refused, mut btf) = (None, Err(btf));
    let is_allowed =
        |helpers: &Helpers| (allowed.cookie || !helpers.cookie) && (allowed.storage || !helpers.storage);
    for helpers in ATTEMPTS.into_iter().filter(is_allowed) {
        let mut ebpf = object::create_maps(loader, options, &config(helpers))?;
        let made = btf.or_else(join_btf)?;
        match load_indispensable(&mut ebpf, options, &made) {
            Ok(()) => return Ok((ebpf, used_helpers(helpers, reasons), made)),
            Err(error @ AttachError::Program { .. }) => {
                // The last refusal with a helper says why that helper cannot be called.
                if helpers.cookie {
                    reasons.cookie = error.to_string();
                }
                if helpers.storage {
                    reasons.storage = error.to_string();
                }
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
        btf = Ok(made);
    }
    Err(refused.unwrap_or_else(|| object::missing_item(TRANSITION)))
}

/// Loads the program without which there is nothing to trace, or to walk.
fn load_indispensable(ebpf: &mut Ebpf, options: &Options, btf: &Btf) -> Result<(), AttachError> {
    if options.transitions {
        load_tp_btf(ebpf, TRANSITION, btf)
    } else {
        load_iter(ebpf, TCP_SOCKETS, "tcp", btf)
    }
}

fn used_helpers(used: Helpers, reasons: Helpers<String>) -> Helpers<FeatureStatus> {
    let status = |feature, is_used: bool, reason| {
        FeatureStatus::from_result(feature, if is_used { Ok(()) } else { Err(reason) })
    };
    Helpers {
        cookie: status(Feature::Cookie, used.cookie, reasons.cookie),
        storage: status(Feature::Storage, used.storage, reasons.storage),
    }
}

fn join_btf(making: ScopedJoinHandle<'_, Result<Btf, BtfError>>) -> Result<Btf, AttachError> {
    let made = making.join().unwrap_or_else(|panic| resume_unwind(panic));
    made.map_err(|error| AttachError::BadBtf(error.to_string()))
}
