//! Details about a stuck socket, shown if there is room.

use crate::{
    events::{Cause, OriginHow, OwnerHow, SocketDetails},
    humanize::{
        name::{ProcessName, printable_name},
        number::count_of,
    },
    outputs::text::holders::Holders,
};

/// Explains the cause, with a colon before it.
pub(crate) fn describe_cause(details: &SocketDetails) -> String {
    match details.cause {
        Cause::DataUnread => format!(": {} wait", count_of(details.recv_queue, "byte")),
        Cause::Sending => format!(": {} unacknowledged", count_of(details.send_queue, "byte")),
        Cause::NotClosed => ": all read, nothing to send".to_owned(),
        Cause::EofUnread => ": all data read, the end is not".to_owned(),
        Cause::NotAccepted => match &details.listener {
            Some(listener) => {
                format!(": waits in the accept queue ({} of {})", listener.backlog, listener.backlog_limit)
            }
            None => ": waits in the accept queue".to_owned(),
        },
        Cause::Peer | Cause::Unknown => String::new(),
    }
}

/// Says which thread connected or accepted the socket; `None` if the holder's name says it
/// already.
pub(crate) fn describe_origin(details: &SocketDetails) -> Option<String> {
    let origin = details.origin.as_ref()?;
    let did = match origin.how {
        OriginHow::Accept => "accepted",
        OriginHow::Connect => "connected",
        OriginHow::Listen => return None,
    };
    match details.owners.iter().find(|owner| owner.pid == origin.pid) {
        Some(owner) if owner.comm.is_some_and(|comm| comm != origin.comm) => {
            Some(format!("{did} by thread {}", printable_name(&origin.comm)))
        }
        Some(_) => None,
        None => {
            let process = ProcessName { pid: origin.pid, comm: Some(&origin.comm) };
            Some(format!("{did} by {}", process.fit_width(usize::MAX)))
        }
    }
}

/// Says what is at the other end of the socket; `None` if that is not on this host.
pub(crate) fn describe_peer(details: &SocketDetails) -> Option<String> {
    let peer = details.peer.as_ref()?;
    let (holders, state) = (Holders::of_peer(peer), peer.state);
    let process = || holders.format_process(usize::MAX);
    Some(match peer.owner_how {
        OwnerHow::Listener => format!("peer in {state}, not accepted by {}", process()),
        _ if !peer.owners.is_empty() => {
            format!("peer {} fd {} in {state}", process(), holders.format_descriptors())
        }
        _ if peer.gone => format!("peer gone, {state}"),
        _ => format!("peer in {state}, no descriptor holds it"),
    })
}
