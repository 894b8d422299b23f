//! The services behind the gateway. The one that echoes is as thin as HTTP/2 over mutual TLS can be, for it serves every rival alike; auth
//! knows one key and signs real context tokens.
use std::{
    collections::BTreeMap, convert::Infallible, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc,
};

use bytes::Bytes;
use chassis::{
    Runtime, Settings,
    token::{self, Signer},
};
use clap::Parser;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::auth::v1::{
    self as pb,
    authenticate_request::Credential,
    guard_service_server::{GuardService, GuardServiceServer},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{
    RootCertStore, ServerConfig, crypto::CryptoProvider, crypto::ring, server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, service::Routes};
use types::{Context, KeyId, Plan, Region, Role, Seat, Subject, TenantId, UserId};

use crate::shape::{KEY, descriptors};

/// Where they listen.
#[derive(clap::Args)]
pub(crate) struct Behind {
    /// The folder with certificates.
    #[arg(long)]
    certificates: PathBuf,
    /// Of the service that echoes.
    #[arg(long)]
    bench: SocketAddr,
    /// Of auth.
    #[arg(long)]
    auth: SocketAddr,
}

/// AES-128-GCM for every rival: what differs is not the cipher.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    })
}

pub(crate) fn roots(file: &std::path::Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

pub(crate) fn identity(stem: &std::path::Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let stem = stem.display();
    let chain = CertificateDer::pem_file_iter(format!("{stem}.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{stem}-key.pem")).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}

/// Serves until it is killed.
pub(crate) async fn run(behind: Behind) -> ExitCode {
    let _ = ring::default_provider().install_default();
    let (chain, key) = identity(&behind.certificates.join("bench"));
    let roots = Arc::new(roots(&behind.certificates.join("bundle.pem")));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(behind.bench).await.unwrap();
    tokio::spawn(auth(behind));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(connection(acceptor.clone(), stream));
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(10_000)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20);
    let _ = builder
        .serve_connection(TokioIo::new(stream), service_fn(echo))
        .await;
}

/// Request and answer have the same fields, so the bytes are right as they came.
async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let bytes = request.into_body().collect().await?.to_bytes();
    let end = async {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    let mut response = Response::new(Full::new(bytes).with_trailers(end));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

async fn auth(behind: Behind) {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        settings: Settings,
    }
    let file = |name: &str| Some(behind.certificates.join(name));
    let settings = Settings {
        listen: behind.auth,
        admin_listen: ([127, 0, 0, 1], 0).into(),
        identity_cert_file: file("auth.pem"),
        identity_key_file: file("auth-key.pem"),
        trust_bundle_file: file("bundle.pem"),
        region: Region::Eu,
        ..Defaults::parse_from(["auth"]).settings
    };
    let runtime = Runtime::bind("auth", &settings, &descriptors()).await.unwrap();
    let guard = Guard::new();
    runtime.publish_keys(vec![guard.signer.verifying_key()]);
    runtime
        .serve(Routes::new(GuardServiceServer::new(guard)))
        .await
        .unwrap();
}

struct Guard {
    signer: Signer,
    context: Context,
}

impl Guard {
    fn new() -> Self {
        let seat = Seat {
            tenant: TenantId::fresh(),
            region: Region::Eu,
            plan: Plan::Free,
            role: Some(Role::Owner),
            pools: BTreeMap::new(),
            scopes: None,
        };
        let subject = Subject::Key {
            key: KeyId::fresh(),
            owner: UserId::fresh(),
        };
        Self {
            signer: Signer::new("key-1".to_owned(), &[7; 32]).unwrap(),
            context: Context {
                subject,
                seat: Some(seat),
                mfa_enabled: false,
            },
        }
    }
}

#[tonic::async_trait]
impl GuardService for Guard {
    async fn authenticate(
        &self,
        request: tonic::Request<pb::AuthenticateRequest>,
    ) -> Result<tonic::Response<pb::AuthenticateResponse>, Status> {
        match request.into_inner().credential {
            Some(Credential::ApiKey(key)) if key == KEY => {
                let context_token = self
                    .signer
                    .context(&self.context, Region::Eu, token::now())
                    .unwrap();
                Ok(tonic::Response::new(pb::AuthenticateResponse {
                    context_token,
                    expire_time: None,
                }))
            }
            _ => Err(Status::unauthenticated("another key")),
        }
    }

    async fn consume_step_up(
        &self,
        _: tonic::Request<pb::ConsumeStepUpRequest>,
    ) -> Result<tonic::Response<pb::ConsumeStepUpResponse>, Status> {
        Err(Status::unimplemented("no method of the bench takes a code"))
    }

    async fn delegate(
        &self,
        _: tonic::Request<pb::DelegateRequest>,
    ) -> Result<tonic::Response<pb::DelegateResponse>, Status> {
        Err(Status::unimplemented("no agent is behind the bench"))
    }

    async fn get_key_set(
        &self,
        _: tonic::Request<pb::GetKeySetRequest>,
    ) -> Result<tonic::Response<pb::GetKeySetResponse>, Status> {
        let key = self.signer.verifying_key();
        let keys = vec![pb::VerifyingKey {
            kid: key.kid,
            ed25519: key.ed25519.to_vec().into(),
        }];
        Ok(tonic::Response::new(pb::GetKeySetResponse { keys }))
    }
}
