//! What a child that was taken over could send: any packets, with any number of descriptors. The parent says what it was,
//! and keeps no descriptor. A packet is a byte of descriptors, a byte of length, and its bytes.
#![no_main]

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::Spec;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use vctx_child::handshake::{Order, Report};
use vctx_context::spawn::{Error, Handshake};
use vctx_runtime::fuzzing;

static SPEC: LazyLock<Spec> = LazyLock::new(Spec::default);

fuzz_target!(|data: &[u8]| {
    let before = lowest_free();
    {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut rest = data;
        for _ in 0..8 {
            let mut head = [0; 2];
            let Ok(()) = rest.read_exact(&mut head) else { break };
            let (packet, after) = rest.split_at(rest.len().min(head[1].into()));
            rest = after;
            send(&theirs, packet, usize::from(head[0] % 4));
        }
        drop(theirs);
        let handshake = Handshake::over(ours);
        let _ = handshake.order(Order::Mapped).map_err(explain);
        let _ = handshake.expect(&[Report::Gate, Report::Ready]).map_err(explain);
        for _ in 0..8 {
            match handshake.executed() {
                Ok(None) => break,
                Ok(Some(listener)) => assert!(listener.as_raw_fd() > 2),
                Err(error) => explain(error),
            }
        }
    }
    assert_eq!(lowest_free(), before, "a descriptor was kept");
});

fn explain(error: Error) {
    assert!(!fuzzing::explain(&SPEC, error).unwrap().to_string().is_empty());
}

fn send(socket: &OwnedFd, packet: &[u8], descriptors: usize) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let list: Vec<BorrowedFd> = vec![socket.as_fd(); descriptors];
    assert!(descriptors == 0 || control.push(SendAncillaryMessage::ScmRights(&list)));
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn lowest_free() -> i32 {
    rustix::io::dup(std::io::stdin()).unwrap().as_raw_fd()
}
