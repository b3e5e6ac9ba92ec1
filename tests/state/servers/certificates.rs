//! Certificates for the tests, made with `openssl` (`man 1 openssl-req`).

use std::path::PathBuf;
use std::process::Command;

use docklet::state::EtcdTls;

use crate::stage::Scratch;

/// An authority that signs what it is asked to.
pub(crate) struct Authority {
    scratch: Scratch,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { scratch: Scratch::new() };
        authority.request("ca", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        authority
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn request(&self, name: &str, args: &[&str]) {
        let (key, certificate) = (self.text(&format!("{name}.key")), self.text(&format!("{name}.pem")));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-days", "2", "-subj", &format!("/CN={name}"), "-keyout", &key, "-out", &certificate])
            .args(args)
            .output()
            .expect("start openssl: install it");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A certificate for a server of this process, or a client: `name.pem` and `name.key`.
    pub(crate) fn sign(&self, name: &str) {
        let address = format!("subjectAltName=IP:{}", super::server::address());
        let (ca, key) = (self.text("ca.pem"), self.text("ca.key"));
        let usage = [
            "-addext",
            "extendedKeyUsage=serverAuth,clientAuth",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        self.request(name, &[&["-CA", &ca, "-CAkey", &key, "-addext", &address], &usage[..]].concat());
    }

    /// How a client shows what was signed as `name`, and trusts this authority.
    pub(crate) fn tls(&self, name: &str) -> EtcdTls {
        let (certificate, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        EtcdTls { ca: self.file("ca.pem"), certificate: Some(certificate), key: Some(key) }
    }

    /// The arguments of an etcd that shows `server`, and lets in whom this authority signed.
    pub(crate) fn server_args(&self) -> Vec<String> {
        let [certificate, key, ca] = ["server.pem", "server.key", "ca.pem"].map(|name| self.text(name));
        let args =
            ["--cert-file", &certificate, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
        args.map(ToString::to_string).to_vec()
    }
}
