//! Walks the file descriptors of all processes: one row for each that holds a TCP socket in a
//! wanted state. The only place that fills in a [`Descriptor`].

use tcptrace_common::{Descriptor, state};

use crate::{
    cookie,
    iter_context::IterContext,
    pointers::{File, TaskStruct},
    socket_row::{walk_filter, write_full_socket},
};

/// Writes the row of the descriptor that the walk is at. Writes the row of its socket too if the
/// socket's namespace is not walked.
#[inline(always)]
pub(crate) fn write_holder(ctx: &IterContext) {
    let (Some(task), Some(file)) = (ctx.slot_pointer(1), ctx.slot_pointer(3)) else { return };
    // SAFETY: neither pointer is null, and these are their types (`struct bpf_iter__task_file`).
    let (task, file) = unsafe { (TaskStruct::new(task), File::new(file)) };
    let Some(sock) = file.as_socket().and_then(|socket| socket.sk()) else { return };
    let Some(filter) = walk_filter() else { return };
    // No descriptor holds a timewait socket, so this is the state.
    let state = sock.as_common().state();
    if filter.holder_states & state::bit(state) == 0 {
        return;
    }
    let Some(tcp) = sock.as_tcp() else { return };
    let cookie = cookie::of_sock(ctx, sock);
    let has_row = tcp.as_common().netns() != filter.walked_netns;
    let leader = task.group_leader();
    ctx.write_row(&Descriptor {
        cookie,
        pid: task.tgid(),
        has_row: has_row.into(),
        fd: ctx.slot_integer(2),
        uid: task.cred().uid(),
        start_ns: leader.start_ns(),
        comm: bytemuck::cast(leader.comm()),
    });
    if has_row {
        write_full_socket(ctx, sock, tcp, cookie, state, filter);
    }
}
