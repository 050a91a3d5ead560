//! One request and its answers on a blocking rtnetlink(7) socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The kernel puts no more into one packet (`NLMSG_GOODSIZE`, and what is asked of a dump by the room that is offered).
const LARGEST: usize = 32 << 10;

/// A socket, which belongs to the namespace in which it was made wherever its owner goes.
pub(crate) struct Wire {
    socket: Socket,
}

impl Wire {
    /// Speaks to the namespace of the caller.
    pub(crate) fn here() -> io::Result<Wire> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Wire { socket })
    }

    /// Speaks to another namespace. The thread goes there and comes back.
    pub(crate) fn there(namespace: BorrowedFd<'_>) -> io::Result<Wire> {
        Wire::there_from(own()?.as_fd(), namespace)
    }

    /// The same, where the own namespace is open already.
    pub(crate) fn there_from(own: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<Wire> {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace, network)?;
        let wire = Wire::here();
        move_into_link_name_space(own, network)?;
        wire
    }

    /// Asks for a change, and waits until it is done.
    pub(crate) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, NLM_F_ACK | flags).map(drop)
    }

    /// Asks for several changes with one system call. The kernel makes them one after the other; those after a failed one
    /// as well. Gives the first failure. Only the last one is acknowledged, and so comes last of what is told.
    pub(crate) fn change_all(&self, requests: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let last = requests.len() as u32;
        for (number, (message, flags)) in (1..).zip(requests) {
            let start = bytes.len();
            let mut request = request(message, if number == last { NLM_F_ACK | flags } else { flags });
            request.header.sequence_number = number;
            bytes.resize(start + request.buffer_len().next_multiple_of(4), 0);
            request.serialize(&mut bytes[start..]);
        }
        if last == 0 {
            return Ok(());
        }
        self.socket.send(&bytes, 0)?;
        let mut result = Ok(());
        loop {
            let (answer, number) = self.answer()?;
            result = result.and(answer.map(drop));
            if number == last {
                return result;
            }
        }
    }

    /// Asks for all there is of a kind.
    pub(crate) fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.ask(message, NLM_F_DUMP)
    }

    /// A device by its name, if there is one.
    pub(crate) fn link(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        let answers = match self.ask(RouteNetlinkMessage::GetLink(link), NLM_F_ACK) {
            // ENODEV: there is none.
            Err(error) if error.raw_os_error() == Some(19) => return Ok(None),
            result => result?,
        };
        let link = |answer| if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None };
        Ok(answers.into_iter().find_map(link))
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let request = request(message, flags);
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.answers()
    }

    /// What comes up to the end of one answer.
    fn answers(&self) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.answer()?.0
    }

    /// The same, with the number of the request. The outer failure is the socket's.
    fn answer(&self) -> io::Result<(io::Result<Vec<RouteNetlinkMessage>>, u32)> {
        let mut answers = Vec::new();
        let mut bytes = Vec::with_capacity(LARGEST);
        loop {
            bytes.clear();
            self.socket.recv(&mut bytes, 0)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(wrong)?;
                // Messages begin at multiples of four bytes (netlink(7)).
                let length = (answer.header.length as usize).next_multiple_of(4).max(4);
                let number = answer.header.sequence_number;
                rest = rest.get(length..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Ok((Err(error.to_io()), number));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok((Ok(answers), number)),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

fn request(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    request
}

/// The network namespace of this thread.
pub(crate) fn own() -> io::Result<OwnedFd> {
    Ok(open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
