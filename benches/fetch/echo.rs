//! The floor: a plain tonic server that answers each call with the same token.

use std::path::Path;
use std::pin::Pin;

use futures_util::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::load::pb::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::load::pb::*;

/// Serves until killed, on one thread or several.
pub fn serve(socket: &Path, threads: &str) {
    let runtime = if threads == "1" {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
    };
    runtime.expect("a runtime").block_on(async {
        let path = socket.with_extension("new");
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, open).expect("an open socket");
        std::fs::rename(&path, socket).expect("a name");
        tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(Echo("x".repeat(650))))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .expect("a server");
    });
}

struct Echo(String);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Echo {
    type FetchX509SVIDStream = Replies<X509svidResponse>;
    type FetchX509BundlesStream = Replies<X509BundlesResponse>;
    type FetchJWTBundlesStream = Replies<JwtBundlesResponse>;
    type FetchWITSVIDStream = Replies<WitsvidResponse>;
    type FetchWITBundlesStream = Replies<WitBundlesResponse>;

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let svid = Jwtsvid {
            spiffe_id: "spiffe://example.org/billing".to_owned(),
            svid: self.0.clone(),
            hint: "internal".to_owned(),
        };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
