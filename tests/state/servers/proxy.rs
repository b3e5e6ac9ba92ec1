//! A way between sockets that can be cut: what is sent over it then is lost without a word, as when a cable is pulled.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::server::port;

/// Who is cut off, by the URL that others know it by. Proxies share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cuts(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cut: BTreeSet<String>,
    /// Both ends of each connection that lost something: they end when the way is whole again.
    torn: Vec<TcpStream>,
}

impl Cuts {
    /// Nothing goes to or from `url` any more.
    pub(crate) fn cut(&self, url: &str) {
        self.0.lock().expect("cuts").cut.insert(url.to_owned());
    }

    /// All ways are whole again.
    pub(crate) fn heal(&self) {
        let mut state = self.0.lock().expect("cuts");
        state.cut.clear();
        for stream in state.torn.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn swallows(&self, ends: &[String], streams: [&TcpStream; 2]) -> bool {
        let mut state = self.0.lock().expect("cuts");
        let lost = ends.iter().any(|end| state.cut.contains(end));
        if lost {
            state.torn.extend(streams.iter().filter_map(|stream| stream.try_clone().ok()));
        }
        lost
    }
}

/// The URL of a way to `target`, which is cut together with that URL, and with whoever says that it comes from a URL that is cut.
pub(crate) fn proxy(target: SocketAddr, cuts: &Cuts) -> String {
    let listener = TcpListener::bind(port()).expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let (cuts, own) = (cuts.clone(), url.clone());
    std::thread::spawn(move || {
        for from in listener.incoming() {
            let Ok(from) = from else { continue };
            let (cuts, own) = (cuts.clone(), own.clone());
            std::thread::spawn(move || carry(from, target, &own, &cuts));
        }
    });
    url
}

/// Carries one connection. Whoever opens it says who it is in what it sends first: members of etcd do (`X-PeerURLs`).
fn carry(from: TcpStream, target: SocketAddr, own: &str, cuts: &Cuts) {
    let mut first = vec![0; 8 << 10];
    let Ok(length) = (&from).read(&mut first) else { return };
    first.truncate(length);
    let said = String::from_utf8_lossy(&first);
    let sender =
        said.lines().find_map(|line| line.strip_prefix("X-Peerurls: ").or(line.strip_prefix("X-PeerURLs: ")));
    let ends: Vec<String> = [Some(own), sender].into_iter().flatten().map(ToString::to_string).collect();
    let Ok(to) = TcpStream::connect(target) else {
        // As the target itself would do.
        return;
    };
    let _ = (to.set_nodelay(true), from.set_nodelay(true));
    std::thread::scope(|scope| {
        scope.spawn(|| copy(&to, &from, &[], &ends, cuts));
        copy(&from, &to, &first, &ends, cuts);
    });
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, first: &[u8], ends: &[String], cuts: &Cuts) {
    let mut buffer = vec![0; 64 << 10];
    let mut part = first.to_vec();
    loop {
        if !part.is_empty() && !cuts.swallows(ends, [from, to]) && to.write_all(&part).is_err() {
            break;
        }
        match from.read(&mut buffer) {
            Ok(length @ 1..) => part = buffer[..length].to_vec(),
            _ => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
