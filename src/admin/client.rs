//! The one client of the admin socket, for the commands.

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::pb::admin::administration_client::AdministrationClient;
use crate::pb::admin::entries_client::EntriesClient;
use crate::pb::admin::keys_client::KeysClient;
use crate::pb::admin::processes_client::ProcessesClient;
use crate::pb::admin::{
    CreateEntriesRequest, CreateResult, DeleteEntryRequest, Entry, EntrySpec,
    ExplainProcessRequest, GetStatusRequest, GetStatusResponse, ListEntriesRequest, Made, NewEntry,
    ReloadRequest, RotateKeyRequest, RotateKeyResponse, TaintKeyRequest, UpdateEntryRequest,
};
use crate::pb::explain::v1::Explanation;
use crate::workload_api::client::{Advice, ClientError, channel};

/// Where the agent is and how patient the caller is.
#[derive(Debug, Clone)]
pub struct AdminClient {
    /// Path of the socket.
    pub socket: PathBuf,
    /// How long a call may take.
    pub timeout: Duration,
}

const ADVICE: Advice = Advice {
    named_by: "--admin-socket or AGENT_ADMIN_SOCKET",
    denied: "only root and the user of the agent administer it",
};

/// The largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

impl AdminClient {
    async fn connect(&self) -> Result<Channel, ClientError> {
        channel(&self.socket, &ADVICE).await
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let late = |_| ClientError::Unavailable("the time is up".to_owned());
        tokio::time::timeout(self.timeout, call)
            .await
            .map_err(late)?
    }

    /// The state of the agent.
    ///
    /// # Errors
    ///
    /// Why it is not known.
    pub async fn status(&self) -> Result<GetStatusResponse, ClientError> {
        self.in_time(async {
            let stub = AdministrationClient::new(self.connect().await?);
            let mut stub = stub.max_decoding_message_size(MAX_ANSWER_BYTES);
            let reply = stub.get_status(GetStatusRequest {}).await;
            Ok(reply.map_err(refused)?.into_inner())
        })
        .await
    }

    /// Has the configuration read again; tells what changed, or why nothing did.
    ///
    /// # Errors
    ///
    /// It could not be asked.
    pub async fn reload(&self) -> Result<Result<Vec<String>, String>, ClientError> {
        self.in_time(async {
            let stub = AdministrationClient::new(self.connect().await?);
            let mut stub = stub.max_decoding_message_size(MAX_ANSWER_BYTES);
            let reply = stub.reload(ReloadRequest {}).await;
            let reply = reply.map_err(refused)?.into_inner();
            Ok(if reply.refused.is_empty() {
                Ok(reply.changes)
            } else {
                Err(reply.refused)
            })
        })
        .await
    }

    /// Has a key replaced as soon as it can be; the names may be empty where there is only one.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub async fn rotate_key(
        &self,
        issuer: &str,
        key: &str,
    ) -> Result<RotateKeyResponse, ClientError> {
        self.in_time(async {
            let mut stub = KeysClient::new(self.connect().await?);
            let request = RotateKeyRequest {
                issuer: issuer.to_owned(),
                key: key.to_owned(),
            };
            Ok(stub
                .rotate_key(request)
                .await
                .map_err(refused)?
                .into_inner())
        })
        .await
    }

    /// Takes a compromised key out of use; tells which one signs now, if any.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub async fn taint_key(&self, kid: &str) -> Result<String, ClientError> {
        self.in_time(async {
            let mut stub = KeysClient::new(self.connect().await?);
            let request = TaintKeyRequest {
                kid: kid.to_owned(),
            };
            let reply = stub.taint_key(request).await.map_err(refused)?;
            Ok(reply.into_inner().successor)
        })
        .await
    }

    /// Why a process has the identities that it has.
    ///
    /// # Errors
    ///
    /// Why that cannot be told.
    pub async fn explain(
        &self,
        request: ExplainProcessRequest,
    ) -> Result<Explanation, ClientError> {
        self.in_time(async {
            let mut stub = ProcessesClient::new(self.connect().await?);
            let mut request = tonic::Request::new(request);
            request.set_timeout(self.timeout);
            let reply = stub.explain_process(request).await;
            Ok(reply.map_err(refused)?.into_inner())
        })
        .await
    }

    /// The entries that fit a filter.
    ///
    /// # Errors
    ///
    /// Why they are not known.
    pub async fn list(&self, filter: ListEntriesRequest) -> Result<Vec<Entry>, ClientError> {
        self.in_time(async {
            let mut stub = EntriesClient::new(self.connect().await?);
            let mut stream = stub
                .list_entries(filter)
                .await
                .map_err(refused)?
                .into_inner();
            let mut entries = Vec::new();
            while let Some(entry) = stream.message().await.map_err(refused)? {
                entries.push(entry);
            }
            Ok(entries)
        })
        .await
    }

    /// Makes entries; one result for each.
    ///
    /// # Errors
    ///
    /// Why none was tried.
    pub async fn create(&self, entries: Vec<NewEntry>) -> Result<Vec<CreateResult>, ClientError> {
        self.in_time(async {
            let stub = EntriesClient::new(self.connect().await?);
            let mut stub = stub.max_decoding_message_size(MAX_ANSWER_BYTES);
            let reply = stub.create_entries(CreateEntriesRequest { entries }).await;
            Ok(reply.map_err(refused)?.into_inner().results)
        })
        .await
    }

    /// Replaces an entry.
    ///
    /// # Errors
    ///
    /// Why it is as it was.
    pub async fn update(&self, id: &str, spec: EntrySpec) -> Result<Made, ClientError> {
        self.in_time(async {
            let mut stub = EntriesClient::new(self.connect().await?);
            let request = UpdateEntryRequest {
                id: id.to_owned(),
                spec: Some(spec),
            };
            Ok(stub
                .update_entry(request)
                .await
                .map_err(refused)?
                .into_inner())
        })
        .await
    }

    /// Removes an entry.
    ///
    /// # Errors
    ///
    /// Why it is still there.
    pub async fn delete(&self, id: &str) -> Result<(), ClientError> {
        self.in_time(async {
            let mut stub = EntriesClient::new(self.connect().await?);
            let request = DeleteEntryRequest { id: id.to_owned() };
            stub.delete_entry(request).await.map_err(refused)?;
            Ok(())
        })
        .await
    }
}

/// On this socket a missing permission is about the operator, not about an identity.
fn refused(status: Status) -> ClientError {
    if std::error::Error::source(&status).is_some() {
        return ClientError::Unavailable("the connection was lost".to_owned());
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => {
            ClientError::Unavailable(status.message().to_owned())
        }
        _ => ClientError::Refused(status.message().to_owned()),
    }
}
