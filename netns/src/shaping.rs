//! What holds a context to its rates, by tc(8) on the host's side of its device, where no right inside can change it.
//!
//! What the context receives leaves by its port: a token bucket (tbf) is the port's queue. What it sends comes in there,
//! where nothing queues; so it is led through a device made for that (ifb), which has such a queue and gives the packets
//! back. The other way, dropping what is too much, makes TCP lose packets at every rate. The ifb is named after the port,
//! and is all that does not go with it.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption,
    TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use crate::bridge::{delete, index, up_message};
use crate::rate::{Rate, Rates};
use crate::wire::Wire;
use crate::{Error, Result};

/// Holds the context behind a port to `rates`, whatever held it before. A new rate takes the place of an old one while
/// packets flow; none is lost.
///
/// # Errors
///
/// The port is gone, or the kernel lacks a part.
pub fn hold(port: &str, rates: &Rates) -> Result<()> {
    let failed = |part| move |source| Error::Rate { port: port.to_owned(), part, source };
    let wire = Wire::here().map_err(failed("netlink"))?;
    let device = index(port)?.ok_or_else(|| failed("device")(io::ErrorKind::NotFound.into()))?;
    match rates.inward {
        Some(rate) => bucket(&wire, device, rate).map_err(failed("tbf"))?,
        None => absent_is_fine(wire.change(Message::DelQueueDiscipline(queue(device, TcHandle::ROOT)), 0))
            .map_err(failed("tbf"))?,
    }
    let Some(rate) = rates.outward else {
        unlead(&wire, device).map_err(failed("ingress"))?;
        return forget(port);
    };
    let name = buffer(port);
    let made =
        taken_is_fine(wire.change(new_buffer(&name), NLM_F_CREATE | NLM_F_EXCL)).map_err(failed("ifb"))?;
    let through = index(&name)?.ok_or_else(|| failed("ifb")(io::ErrorKind::NotFound.into()))?;
    let settings = vec![(without_addresses(through), 0), (Message::SetLink(up_message(through)), 0)];
    wire.change_all(settings).map_err(failed("ifb"))?;
    bucket(&wire, through, rate).map_err(failed("tbf"))?;
    if made {
        // What there was led to a device that is gone.
        unlead(&wire, device).map_err(failed("ingress"))?;
    }
    lead(&wire, device, through).map_err(failed("ingress, u32 or mirred"))
}

/// Removes what does not go with a port.
///
/// # Errors
///
/// The kernel refuses.
pub fn forget(port: &str) -> Result<()> {
    let name = buffer(port);
    if index(&name)?.is_none() {
        return Ok(());
    }
    delete(&Wire::here().map_err(Error::link("remove", &name))?, &name)
}

/// The device through which a port's packets are led: `vq` where the port has `vx`.
fn buffer(port: &str) -> String {
    format!("vq{}", port.get(2..).unwrap_or_default())
}

fn new_buffer(name: &str) -> Message {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.into()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
    Message::NewLink(link)
}

/// It speaks to nobody: without this, it gets an address of IPv6 and asks for routers.
fn without_addresses(device: u32) -> Message {
    let mut link = LinkMessage::default();
    link.header.index = device;
    let none = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(none)]));
    Message::SetLink(link)
}

fn queue(device: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(device as i32);
    message.header.parent = parent;
    message
}

/// A token bucket as the queue of a device (`struct tc_tbf_qopt` in linux/pkt_sched.h). It holds what comes in ten
/// milliseconds: more than the kernel's timers are late. What is larger than the bucket, as segments of TCP that are still
/// whole, the kernel cuts.
fn bucket(wire: &Wire, device: u32, rate: Rate) -> io::Result<()> {
    const PARAMETERS: u16 = 1;
    const RATE_64: u16 = 4;
    const BURST: u16 = 6;
    // With TC_LINKLAYER_ETHERNET no table of times has to be given.
    const ETHERNET: u32 = u32::from_ne_bytes([0, 1, 0, 0]);
    const LEAST: u64 = 16 << 10;
    let bytes = rate.bytes();
    let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let burst = (bytes / 100).max(LEAST);
    // Beyond the bucket, a twentieth of a second waits; then packets are dropped, which is how TCP learns.
    let limit = burst + (bytes / 20).max(LEAST);
    // Twice a `struct tc_ratespec` (for the rate and, empty, for the peak), the limit, and two times of the bucket, which
    // RATE_64 and BURST say more exactly.
    let words = [ETHERNET, 0, narrow(bytes), 0, 0, 0, narrow(limit), 0, 0];
    let option = |kind, bytes| TcOption::Other(DefaultNla::new(kind, bytes));
    let mut message = queue(device, TcHandle::ROOT);
    message.header.handle = TcHandle { major: 1, minor: 0 };
    message.attributes.push(TcAttribute::Kind("tbf".into()));
    message.attributes.push(TcAttribute::Options(vec![
        option(PARAMETERS, words.into_iter().flat_map(u32::to_ne_bytes).collect()),
        option(RATE_64, bytes.to_ne_bytes().into()),
        option(BURST, narrow(burst).to_ne_bytes().into()),
    ]));
    wire.change(Message::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Leads all that comes in at a device to another one: a filter that matches everything, with the action of tc-mirred(8).
fn lead(wire: &Wire, device: u32, through: u32) -> io::Result<()> {
    const ALL_PROTOCOLS: u16 = 3;
    let mut hook = queue(device, TcHandle::CLSACT);
    hook.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    hook.attributes.push(TcAttribute::Kind("clsact".into()));
    taken_is_fine(wire.change(Message::NewQueueDiscipline(hook), NLM_F_CREATE | NLM_F_EXCL))?;

    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = through;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    let mut filter = queue(device, TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS });
    // The filter's number is ours, so that a second one is not made.
    filter.header.handle = TcHandle { major: 0x8000, minor: 0x0800 };
    filter.header.info = (1 << 16) | u32::from(ALL_PROTOCOLS.to_be());
    filter.attributes.push(TcAttribute::Kind(TcFilterU32::KIND.into()));
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(vec![action])),
    ]));
    taken_is_fine(wire.change(Message::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL)).map(drop)
}

fn unlead(wire: &Wire, device: u32) -> io::Result<()> {
    absent_is_fine(wire.change(Message::DelQueueDiscipline(queue(device, TcHandle::CLSACT)), 0))
}

/// Says whether it was made.
fn taken_is_fine(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true),
    }
}

/// ENOENT and EINVAL: a device has no queue but the one that it was born with (tc_get_qdisc in linux/net/sched/sch_api.c).
fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(2 | 22)) => Ok(()),
        result => result,
    }
}
