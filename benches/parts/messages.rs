//! What a port takes at the least: its messages on two sockets (`man 7 rtnetlink`), without a question. The numbers of both
//! ends are chosen by the caller, so that all of one side goes in one send.

use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use docklet::net::NetworkNamespace;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// The first number for ports: far from those that the kernel gives.
const FIRST: u32 = 1_000_000;
/// Where filters of what comes in are.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };

pub(crate) struct Messages {
    socket: Socket,
    bridge: u32,
    /// The options of a source guard, as docklet set them.
    guard: Vec<TcOption>,
}

impl Messages {
    /// `port` is one that docklet made.
    pub(crate) fn new(bridge: u32, port: u32) -> Self {
        let socket = connect();
        let index = i32::try_from(port).expect("number");
        let question = RouteNetlinkMessage::GetTrafficFilter(filter(index, Vec::new()));
        let found = exchange(&socket, vec![(question, 0)]).remove(0);
        let RouteNetlinkMessage::NewTrafficFilter(found) = found else { panic!("{found:?}") };
        let options = found.attributes.into_iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
        let mut guard = options.expect("options");
        // Only the program's length and the program.
        guard.retain(|option| matches!(option, TcOption::Bpf(TcFilterBpfOption::Other(_))));
        guard.push(TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)));
        Self { socket, bridge, guard }
    }

    pub(crate) fn create(&self, namespace: &NetworkNamespace, turn: usize) {
        let index = FIRST + u32::try_from(turn).expect("number");
        let mut inner = LinkMessageBuilder::<LinkUnspec>::default()
            .index(index)
            .name("eth0".to_owned())
            .address(vec![2, 0, 0, 0, 0, 2])
            .mtu(1500)
            .build();
        inner.attributes.push(LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()));
        let mut pair = LinkVeth::new("dkraw", "eth0")
            .address(vec![2, 0, 0, 0, 0, 1])
            .mtu(1500)
            .controller(self.bridge)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
            .build();
        pair.header.index = index;
        let up =
            LinkMessageBuilder::<LinkUnspec>::default().index(index).alias("docklet-bench/raw").up().build();
        let number = i32::try_from(index).expect("number");
        let header = TcHeader {
            index: number,
            handle: TcHandle { major: 0xffff, minor: 0 },
            parent: TcHandle::INGRESS,
            ..TcHeader::default()
        };
        let ingress = TcMessage::from_parts(header, vec![TcAttribute::Kind("ingress".to_owned())]);
        thread::scope(|scope| {
            let descriptor = namespace.as_fd();
            let inside = scope.spawn(move || {
                setns(descriptor, CloneFlags::CLONE_NEWNET).expect("setns");
                connect()
            });
            exchange(
                &self.socket,
                vec![
                    (RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL),
                    (RouteNetlinkMessage::NewQueueDiscipline(ingress), NLM_F_CREATE | NLM_F_EXCL),
                    (RouteNetlinkMessage::NewTrafficFilter(filter(number, self.guard.clone())), NLM_F_CREATE),
                    (RouteNetlinkMessage::SetLink(up), 0),
                ],
            );
            configure(&inside.join().expect("thread"), index);
        });
    }

    pub(crate) fn remove(&self, turn: usize) {
        let mut message = LinkMessage::default();
        message.header.index = FIRST + u32::try_from(turn).expect("number");
        exchange(&self.socket, vec![(RouteNetlinkMessage::DelLink(message), 0)]);
    }
}

fn filter(index: i32, options: Vec<TcOption>) -> TcMessage {
    let handle = TcHandle { major: 0, minor: 1 };
    // The first priority, every protocol.
    let info = 1 << 16 | u32::from(3_u16.to_be());
    let header = TcHeader { index, handle, parent: INGRESS, info, ..TcHeader::default() };
    let mut attributes = vec![TcAttribute::Kind("bpf".to_owned())];
    if !options.is_empty() {
        attributes.push(TcAttribute::Options(options));
    }
    TcMessage::from_parts(header, attributes)
}

fn configure(inside: &Socket, index: u32) {
    let up = LinkMessageBuilder::<LinkUnspec>::default().index(index).up().build();
    let ip = "10.66.0.2".parse().expect("address");
    let mut address = AddressMessage::default();
    address.header.index = index;
    address.header.prefix_len = 16;
    address.header.family = AddressFamily::Inet;
    address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
        .output_interface(index)
        .gateway("10.66.255.1".parse().expect("address"))
        .build();
    exchange(
        inside,
        vec![
            (RouteNetlinkMessage::SetLink(up), 0),
            (RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_EXCL),
            (RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL),
        ],
    );
}

fn connect() -> Socket {
    let mut socket = Socket::new(NETLINK_ROUTE).expect("socket");
    socket.bind_auto().expect("bind");
    socket.connect(&SocketAddr::new(0, 0)).expect("connect");
    socket
}

/// Sends all in one call and waits until all are done. What the kernel tells in between is returned.
fn exchange(socket: &Socket, messages: Vec<(RouteNetlinkMessage, u16)>) -> Vec<RouteNetlinkMessage> {
    let mut bytes = Vec::new();
    let mut waiting = messages.len();
    for (number, (message, flags)) in (1..).zip(messages) {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = number;
        message.finalize();
        let start = bytes.len();
        bytes.resize((start + message.buffer_len()).next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }
    assert_eq!(socket.send(&bytes, 0).expect("send"), bytes.len());
    let mut told = Vec::new();
    while waiting > 0 {
        let (received, _) = socket.recv_from_full().expect("receive");
        let mut rest = &received[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).expect("message");
            let length = usize::try_from(message.header.length).expect("length").next_multiple_of(4);
            rest = &rest[length.min(rest.len())..];
            match message.payload {
                NetlinkPayload::Error(answer) => {
                    assert_eq!(answer.raw_code(), 0, "message {}", message.header.sequence_number);
                    waiting -= 1;
                }
                NetlinkPayload::InnerMessage(message) => told.push(message),
                _ => {}
            }
        }
    }
    told
}
