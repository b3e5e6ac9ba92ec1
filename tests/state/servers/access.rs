//! Who is let in by etcd, and what is told to who is not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use docklet::Error;
use docklet::state::{ClusterStore, EtcdSpec, EtcdTls, EtcdUser, Scope};

use super::certificates::Authority;
use super::faults::{ends, hasty};
use super::server::{Server, port};
use crate::contract::{Note, batch, key, note, soon, told};
use crate::stage::cluster;

async fn refused(spec: &EtcdSpec) -> Error {
    ends("connect", ClusterStore::etcd(&hasty(spec.clone()))).await.expect_err("not let in")
}

/// The error is one of these, and its text names the remedy.
fn names(error: &Error, remedy: &str) {
    assert!(error.to_string().contains(remedy), "{error}");
}

async fn with_certificates() -> (Authority, Server) {
    let authority = Authority::new();
    authority.sign("server");
    authority.sign("client");
    let args = authority.server_args();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut server = Server::prepare("https", &args);
    server.restart().await;
    (authority, server)
}

#[tokio::test]
async fn a_certificate_opens_the_door() {
    let (authority, server) = with_certificates().await;
    let spec = EtcdSpec { tls: Some(authority.tls("client")), ..server.spec(&cluster()) };
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    let mut watch = store.watch(Scope::All).await.expect("watch");
    store.put(&key("a"), &note("1")).await.expect("put");
    assert_eq!(told(&batch(&mut watch).await), ["a=1"]);
}

#[tokio::test]
async fn a_wrong_certificate_is_told() {
    let (authority, server) = with_certificates().await;
    let stranger = Authority::new();
    stranger.sign("client");
    let right = EtcdSpec { tls: Some(authority.tls("client")), ..server.spec(&cluster()) };
    let with = |tls: EtcdTls| EtcdSpec { tls: Some(tls), ..right.clone() };

    let own = EtcdTls { ca: authority.file("ca.pem"), ..stranger.tls("client") };
    let error = refused(&with(own)).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    names(&error, "trusted-ca-file");

    let none = EtcdTls { certificate: None, key: None, ..authority.tls("client") };
    let error = refused(&with(none)).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    names(&error, "trusted-ca-file");

    let other = EtcdTls { ca: stranger.file("ca.pem"), ..authority.tls("client") };
    let error = refused(&with(other)).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    names(&error, "tls.ca");

    let half = EtcdTls { key: None, ..authority.tls("client") };
    assert!(matches!(refused(&with(half)).await, Error::Invalid { .. }));
    let swapped = EtcdTls { ca: authority.file("ca.key"), ..authority.tls("client") };
    assert!(matches!(refused(&with(swapped)).await, Error::Invalid { .. }));
    let missing = EtcdTls { ca: authority.file("none.pem"), ..authority.tls("client") };
    assert!(matches!(refused(&with(missing)).await, Error::Os { .. }));
    let mixed = EtcdTls { key: Some(stranger.file("client.key")), ..authority.tls("client") };
    let error = refused(&with(mixed)).await;
    assert!(matches!(error, Error::Invalid { .. } | Error::Denied { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_endpoint_is_told() {
    let (authority, secure) = with_certificates().await;
    let plain = Server::start().await;
    let cluster = cluster();

    let to_secure = secure.endpoint().replace("https", "http");
    let error = refused(&EtcdSpec::new(cluster.clone(), [to_secure])).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    names(&error, "https://");

    let to_plain = plain.endpoint().replace("http", "https");
    let tls = Some(authority.tls("client"));
    let error = refused(&EtcdSpec { tls, ..EtcdSpec::new(cluster.clone(), [to_plain]) }).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    names(&error, "http://");

    let nobody = format!("http://{}", port());
    let error = refused(&EtcdSpec::new(cluster.clone(), [&nobody])).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    names(&error, &nobody);

    let web = TcpListener::bind(port()).expect("listen");
    let address = web.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let mut stream = stream.expect("connection");
            let _ = stream.read(&mut [0; 64]);
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let error = refused(&EtcdSpec::new(cluster.clone(), [format!("http://{address}")])).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    names(&error, "protocol");

    // One that works is enough.
    let spec = EtcdSpec::new(cluster, [&*nobody, plain.endpoint()]);
    ClusterStore::etcd(&spec).await.expect("the second answers");
}

/// A client that took two servers for one would lose what is on the other.
#[tokio::test]
async fn endpoints_of_two_etcds_are_told() {
    let mut one = Server::start().await;
    // Alone each would be made the same.
    let other = Server::start_with(&["--initial-cluster-token", "other"]).await;
    let spec = hasty(EtcdSpec::new(cluster(), [one.endpoint(), other.endpoint()]));
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    one.kill();
    let error = ends("get", store.get::<Note>(&key("a"))).await.expect_err("another etcd");
    assert!(matches!(error, Error::Differs { .. }), "{error}");
}

fn user(name: &str, password: &str) -> Option<EtcdUser> {
    Some(EtcdUser { name: name.into(), password: password.into() })
}

/// A server with authentication on, on which `lab` may do everything to the cluster, and `guest` may read.
async fn with_users(args: &[&str]) -> (Server, EtcdSpec) {
    let server = Server::start_with(args).await;
    let spec = hasty(server.spec(&cluster()));
    let prefix = format!("/docklet/{}/", spec.cluster);
    for command in [
        &["user", "add", "root:toor"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "lab"],
        &["role", "grant-permission", "--prefix", "lab", "readwrite", &prefix],
        &["role", "add", "guest"],
        &["role", "grant-permission", "--prefix", "guest", "read", &prefix],
        &["user", "add", "lab:opensesame"],
        &["user", "grant-role", "lab", "lab"],
        &["user", "add", "guest:hello"],
        &["user", "grant-role", "guest", "guest"],
        &["auth", "enable"],
    ] {
        server.etcdctl(command);
    }
    (server, spec)
}

#[tokio::test]
async fn users_and_roles_are_told() {
    let (server, anonymous) = with_users(&[]).await;
    let spec = EtcdSpec { user: user("lab", "opensesame"), ..anonymous.clone() };
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    store.put(&key("a"), &note("1")).await.expect("put");

    for (wrong, remedy) in [
        (anonymous.clone(), "give `user`"),
        (EtcdSpec { user: user("lab", "open"), ..anonymous.clone() }, "password"),
        (EtcdSpec { user: user("nobody", "opensesame"), ..anonymous.clone() }, "password"),
        (EtcdSpec { cluster: cluster(), ..spec.clone() }, "role"),
    ] {
        let error = refused(&wrong).await;
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        names(&error, remedy);
    }

    let guest = ClusterStore::etcd(&EtcdSpec { user: user("guest", "hello"), ..spec.clone() }).await;
    let guest = guest.expect("it may read");
    assert!(guest.get::<Note>(&key("a")).await.expect("get").is_some());
    let error = ends("put", guest.put(&key("a"), &note("2"))).await.expect_err("it may not write");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let mut watch = guest.watch(Scope::All).await.expect("watch");
    store.put(&key("a"), &note("3")).await.expect("put");
    assert_eq!(told(&batch(&mut watch).await), ["a=3"]);

    server.etcdctl(&["--user", "root:toor", "user", "revoke-role", "lab", "lab"]);
    let error = ends("put", store.put(&key("a"), &note("4"))).await.expect_err("no role any more");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let error =
        ends("watch", async { store.watch_from(Scope::All, docklet::state::Revision(1)).next().await });
    let error = error.await.expect_err("no role any more");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let (mut server, spec) = with_users(&["--auth-token-ttl", "1"]).await;
    let spec = EtcdSpec { user: user("lab", "opensesame"), ..spec };
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    let from = store.put(&key("a"), &note("1")).await.expect("put");
    // Twice its time and more: a token that is not used goes.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut watch = store.watch_from(Scope::All, from);
    assert_eq!(told(&batch(&mut watch).await), ["a=1"]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    store.put(&key("a"), &note("2")).await.expect("put");
    assert_eq!(told(&batch(&mut watch).await), ["a=2"]);
    let lease = store.lease(Duration::from_secs(60)).await.expect("lease");
    lease.end().await.expect("end");
    // A server that starts knows no token at all.
    server.kill();
    server.restart().await;
    store.put(&key("a"), &note("3")).await.expect("put");
    let last = soon("the watch", async { while told(&batch(&mut watch).await) != ["a=3"] {} });
    last.await;
}

#[tokio::test]
async fn a_user_without_need_is_told() {
    let server = Server::start().await;
    let spec = EtcdSpec { user: user("lab", "opensesame"), ..server.spec(&cluster()) };
    let error = refused(&spec).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    names(&error, "authentication off");
}
