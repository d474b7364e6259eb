//! What a walk proves about one socket, as a record tells it.

use tcptrace_common::SocketRow;

use crate::{
    clock::WallClock,
    engine::{
        assemble::instant_at,
        cause,
        ownership::{responsible::Responsible, walk_index::WalkIndex},
        state_change::Origin,
        tracker::{finding::Found, socket::Socket},
    },
    events::{
        Cause, Listener, Name, OriginHow, OriginRecord, Owner, OwnerHow, Peer, SocketDetails, SocketId, State,
    },
};

impl WalkIndex<'_> {
    /// Gathers what the walk proves about a socket. One that nobody holds is charged to the process
    /// that opened it.
    pub(crate) fn details_of(&self, found: &Found, wall: &WallClock) -> SocketDetails {
        let Found { cookie, ref socket, ref origin, .. } = *found;
        let row = self.row_of(cookie);
        let Responsible { mut owners, total: mut owners_total, unlisted, how: mut owner_how } =
            self.responsible_owners(cookie);
        let origin = self.origin_of(cookie, socket, origin.as_ref(), wall);
        if let (true, Some(origin)) = (owners.is_empty(), &origin) {
            owners.push(Owner::once(origin.pid));
            (owners_total, owner_how) = (1, OwnerHow::Origin);
        }
        SocketDetails {
            recv_queue: row.as_ref().map_or(0, cause::recv_queue),
            send_queue: row.as_ref().map_or(0, cause::send_queue),
            cause: row.as_ref().map_or(Cause::Unknown, cause::cause_of_row),
            owners,
            owners_total,
            unlisted,
            owner_how,
            origin,
            listener: self.listeners_of_queued(cookie).first().map(|row| describe_listener(row)),
            peer: self.peer_of(cookie).map(|row| self.describe_peer(row)),
        }
    }

    /// The other end of a connection, with its owners.
    fn describe_peer(&self, row: &SocketRow) -> Peer {
        let Responsible { owners, total: owners_total, how: owner_how, .. } =
            self.responsible_owners(row.cookie);
        Peer {
            cookie: row.cookie,
            netns: SocketId::new(row.cookie, row.netns, &row.tuple).netns,
            state: State(row.state),
            owners,
            owners_total,
            owner_how,
            gone: self.is_gone(row.cookie),
        }
    }

    /// Where a socket came from: what the kernel keeps with it, or else what the tracker saw.
    fn origin_of(
        &self,
        cookie: u64,
        socket: &Socket,
        seen: Option<&Origin>,
        wall: &WallClock,
    ) -> Option<OriginRecord> {
        if let Some(kept) = self.kept_origin(cookie) {
            return Some(OriginRecord {
                pid: kept.task.pid,
                tid: kept.task.tid,
                comm: Name(kept.task.thread_comm),
                how: OriginHow::of(kept.call)?,
                time: instant_at(wall, kept.ktime_ns),
            });
        }
        seen.map(|seen| OriginRecord {
            pid: seen.actor.pid,
            tid: seen.actor.tid,
            comm: Name(seen.actor.thread_comm),
            how: if socket.tuple.remote_port == 0 { OriginHow::Listen } else { OriginHow::Connect },
            time: instant_at(wall, seen.at_ns),
        })
    }
}

/// The listener in whose accept queue a socket waits.
fn describe_listener(row: &SocketRow) -> Listener {
    Listener {
        cookie: row.cookie,
        local_addr: SocketId::new(row.cookie, row.netns, &row.tuple).local_addr,
        local_port: row.tuple.local_port,
        backlog: row.unread,
        backlog_limit: row.unsent,
    }
}
