//! 7.1 and 7.2: the endpoint, its header, and whom it takes its callers for; 7.7 as far as it says
//! what is not served.

use std::os::unix::net::UnixStream;
use std::process::Stdio;

use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{FileDescriptorResponse, ServerReflectionRequest};

use crate::common::{
    Need, Sandbox, as_user, binary, entry, eventually, have, issuer, own_entry, text,
};
use crate::house::{House, URL, also, refused, wanted, with_headers};
use crate::load::pb::*;
use crate::load::{Client, connect};
use crate::wire;

/// What each of the seven calls answers to these headers.
async fn all_calls(client: &mut Client, headers: &[&'static str]) -> Vec<(Code, String)> {
    let fetch = client
        .fetch_jwtsvid(with_headers(wanted(&[], ""), headers))
        .await;
    let validate = with_headers(ValidateJwtsvidRequest::default(), headers);
    let validate = client.validate_jwtsvid(validate).await;
    let mut answers = vec![refused(fetch), refused(validate)];
    macro_rules! streams {
        ($($call:ident $message:expr),*) => {$(
            let reply = client.$call(with_headers($message, headers)).await;
            answers.push(reply.map(drop).map_or_else(
                |status| (status.code(), status.message().to_owned()),
                |()| (Code::Ok, String::new()),
            ));
        )*};
    }
    streams!(
        fetch_jwt_bundles JwtBundlesRequest {},
        fetch_x509svid X509svidRequest {},
        fetch_x509_bundles X509BundlesRequest {},
        fetch_witsvid WitsvidRequest::default(),
        fetch_wit_bundles WitBundlesRequest {}
    );
    answers
}

async fn no_call_passes(headers: &[&'static str]) {
    let mut house = House::usual().await;
    let missing = "security header missing from request".to_owned();
    let expected = vec![(Code::InvalidArgument, missing); 7];
    assert_eq!(
        all_calls(&mut house.client, headers).await,
        expected,
        "{headers:?}"
    );
}

/// C1: each call without the security header is refused with InvalidArgument.
#[tokio::test(flavor = "multi_thread")]
async fn c1_no_call_passes_without_the_header() {
    no_call_passes(&[]).await;
}

/// C2: so is each call whose header is not exactly `true`.
#[tokio::test(flavor = "multi_thread")]
async fn c2_no_call_passes_with_another_value() {
    for value in ["True", "TRUE", "1", "", "true,true"] {
        no_call_passes(&[value]).await;
    }
}

/// C3: so is each call that has the header twice.
#[tokio::test(flavor = "multi_thread")]
async fn c3_no_call_passes_with_the_header_twice() {
    no_call_passes(&["true", "true"]).await;
    no_call_passes(&["true", "x"]).await;
}

/// C4: the header comes before everything else: fields, profiles, keys that are not ready.
#[tokio::test(flavor = "multi_thread")]
async fn c4_the_header_is_checked_first() {
    let sandbox = Sandbox::new("");
    sandbox.configure(
        &(issuer("main", URL, "RS256").replace("\"RS256\"", "\"RS256\"\n    size = 4096")
            + &own_entry()),
    );
    let _agent = sandbox.spawn();
    let mut client = eventually_connected(&sandbox).await;
    for (code, why) in all_calls(&mut client, &[]).await {
        assert_eq!(
            (code, why.as_str()),
            (
                Code::InvalidArgument,
                "security header missing from request"
            )
        );
    }
}

/// C5: reflection and health answer without the header.
#[tokio::test(flavor = "multi_thread")]
async fn c5_reflection_and_health_need_no_header() {
    let house = House::usual().await;
    let channel = channel(&house).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest {
        service: "SpiffeWorkloadAPI".to_owned(),
    };
    let status = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(status, 1, "serving");
    assert!(
        services(&house)
            .await
            .contains(&"SpiffeWorkloadAPI".to_owned())
    );
}

/// C6: plain HTTP/2 works, with no credentials but those of the kernel.
#[tokio::test(flavor = "multi_thread")]
async fn c6_plain_http2_is_enough() {
    let house = House::usual().await;
    let block = wire::headers("localhost", "/SpiffeWorkloadAPI/FetchJWTSVID");
    assert!(wire::call(&house.sandbox.socket(), &block).contains("eyJ"));
}

/// C7: the service is `SpiffeWorkloadAPI`, without a package, and has the seven calls.
#[tokio::test(flavor = "multi_thread")]
async fn c7_the_service_has_its_name_and_seven_calls() {
    use prost::Message;

    let house = House::usual().await;
    let wanted = MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".to_owned());
    let Some(MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
        file_descriptor_proto,
    })) = reflect(&house, wanted).await
    else {
        panic!("no descriptor");
    };
    let files = file_descriptor_proto
        .iter()
        .map(|bytes| prost_types::FileDescriptorProto::decode(bytes.as_slice()).unwrap());
    let services: Vec<_> = files
        .flat_map(|file| {
            assert_eq!(file.package.unwrap_or_default(), "");
            file.service
        })
        .collect();
    assert_eq!(services.len(), 1);
    let calls: Vec<_> = services[0]
        .method
        .iter()
        .map(|method| method.name().to_owned())
        .collect();
    assert_eq!(
        calls,
        [
            "FetchX509SVID",
            "FetchX509Bundles",
            "FetchJWTSVID",
            "FetchJWTBundles",
            "ValidateJWTSVID",
            "FetchWITSVID",
            "FetchWITBundles",
        ]
    );
}

/// C8: an `:authority` that is the percent-encoded path of the socket is served, whole, cut into
/// CONTINUATION frames and byte by byte.
#[test]
fn c8_an_encoded_path_as_authority_is_served() {
    authority_is_served("%2Ftmp%2Fx.sock");
}

/// C9: so is one that is the raw path, as Java sends it.
#[test]
fn c9_a_raw_path_as_authority_is_served() {
    authority_is_served("/tmp/x.sock");
}

fn authority_is_served(authority: &str) {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    for spelling in wire::Spelling::ALL {
        for cut in wire::Cut::ALL {
            let block =
                wire::headers_spelled(authority, "/SpiffeWorkloadAPI/FetchJWTSVID", spelling);
            let answer = wire::call_cut(&sandbox.socket(), &block, cut);
            assert!(
                answer.contains("eyJ"),
                "{authority} {spelling:?} {cut:?}: {answer:?}"
            );
        }
    }
}

/// C10: a method that does not exist is Unimplemented.
#[test]
fn c10_an_unknown_method_is_unimplemented() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let block = wire::headers("localhost", "/SpiffeWorkloadAPI/FetchEverything");
    let answer = wire::call(&sandbox.socket(), &block);
    assert!(!answer.contains("eyJ"), "{answer:?}");
    // `12`, the number of the status, in Huffman's code.
    assert!(answer.contains("\u{82}\u{8}\u{bf}"), "{answer:?}");
}

/// C11: before the keys are ready the answer is Unavailable, never PermissionDenied.
#[tokio::test(flavor = "multi_thread")]
async fn c11_before_the_keys_are_ready_the_answer_is_unavailable() {
    let sandbox = Sandbox::new("");
    let slow = issuer("main", URL, "RS256").replace("\"RS256\"", "\"RS256\"\n    size = 4096");
    sandbox.configure(&(slow + &entry("other", nix::unistd::geteuid().as_raw() + 1)));
    let _agent = sandbox.spawn();
    let mut client = eventually_connected(&sandbox).await;
    let mut seen = Vec::new();
    eventually_async("the keys are ready", async || {
        let reply = client
            .fetch_jwtsvid(crate::load::request(wanted(&["a"], "")))
            .await;
        seen.push(refused(reply).0);
        seen.last() == Some(&Code::PermissionDenied)
    })
    .await;
    let until = seen
        .iter()
        .position(|code| *code == Code::PermissionDenied)
        .unwrap();
    // Keys of 4096 bits take longer than a call.
    assert!(until > 0, "the keys were ready before the first call");
    let other = seen[..until]
        .iter()
        .find(|code| **code != Code::Unavailable);
    assert_eq!(other, None);
}

/// C12: the address that is told is `unix:///` and an absolute path.
#[tokio::test(flavor = "multi_thread")]
async fn c12_the_address_is_in_the_form_that_all_clients_read() {
    let house = House::usual().await;
    let output = house.sandbox.run(&["status"]);
    let address = format!("unix://{}", house.sandbox.socket().display());
    assert!(
        text(&output.stdout).contains(&address),
        "{}",
        text(&output.stdout)
    );
    assert!(
        spiffe::WorkloadApiClient::connect_to(&address)
            .await
            .is_ok()
    );
}

/// C13: a socket that was left behind is replaced, one that is served is not; other users connect.
#[test]
fn c13_a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let sandbox = Sandbox::with_entry("ES256");
    sandbox.start().kill();
    assert!(sandbox.socket().exists());
    let _agent = sandbox.start();
    let second = Sandbox::with_entry("ES256");
    let config = std::fs::read_to_string(second.config()).unwrap();
    let (own, other) = (second.path("run"), sandbox.path("run"));
    let config = config.replace(own.to_str().unwrap(), other.to_str().unwrap());
    std::fs::write(second.config(), config).unwrap();
    let output = second.run(&["run", "--config", second.config().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(UnixStream::connect(sandbox.socket()).is_ok());
    if have(&[Need::Root]) {
        let output = sandbox.run_as(1001, &["fetch-jwt", "--audience", "a"]);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
}

/// C16: a caller does nothing but connect.
#[tokio::test(flavor = "multi_thread")]
async fn c16_connecting_is_enough() {
    let house = House::usual().await;
    assert!(house.fetch(&["a"], "").await.is_ok());
}

/// C17: processes of different users get different identities over one socket.
#[test]
fn c17_users_get_their_own_identities() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new("");
    sandbox.configure(&(issuer("main", URL, "ES256") + &entry("one", 1001) + &entry("two", 1002)));
    let _agent = sandbox.start();
    for (uid, name) in [(1001, "one"), (1002, "two")] {
        let output = sandbox.run_as(uid, &["fetch-jwt", "--audience", "a"]);
        assert!(text(&output.stdout).contains(&format!("spiffe://example.org/{name}")));
    }
}

/// C18: a connection whose maker has exited is closed; whoever holds it gets nothing.
#[test]
fn c18_a_connection_ends_with_the_process_that_made_it() {
    if !have(&[Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    // The child connects and exits; the parent inherits nothing but the open connection.
    let script = "
import array, os, socket, sys
ours, theirs = socket.socketpair()
if os.fork() == 0:
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
    theirs.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])
    os._exit(0)
_, control, _, _ = ours.recvmsg(1, 64)
os.wait()
fd = array.array('i'); fd.frombytes(control[0][2][:4])
s = socket.socket(fileno=fd[0]); s.settimeout(30)
try:
    s.sendall(bytes.fromhex(sys.argv[2]))
    got = b''
    while data := s.recv(65536):
        got += data
except (BrokenPipeError, ConnectionResetError):
    pass
sys.exit(b'eyJ' in got if 'got' in dir() else 0)
";
    let hex = wire::hex("/SpiffeWorkloadAPI/FetchJWTSVID");
    let status = std::process::Command::new(crate::common::python().unwrap())
        .args(["-c", script])
        .arg(sandbox.socket())
        .arg(hex)
        .status()
        .unwrap();
    assert!(status.success());
}

/// C19: each call is judged anew: a change of the entries between two calls is seen.
#[tokio::test(flavor = "multi_thread")]
async fn c19_each_call_is_judged_by_the_entries_of_its_moment() {
    let house = House::usual().await;
    assert!(house.fetch(&["a"], "").await.is_ok());
    house.sandbox.configure(&issuer("main", URL, "ES256"));
    assert!(house.sandbox.run(&["reload"]).status.success());
    assert_eq!(
        refused(house.fetch(&["a"], "").await).0,
        Code::PermissionDenied
    );
    house
        .sandbox
        .configure(&(issuer("main", URL, "ES256") + &also("again", "")));
    assert!(house.sandbox.run(&["reload"]).status.success());
    assert_eq!(
        house.fetch(&["a"], "").await.unwrap()[0].spiffe_id,
        "spiffe://example.org/again"
    );
}

/// C20: no refusal tells selectors, paths or identities.
#[tokio::test(flavor = "multi_thread")]
async fn c20_refusals_tell_nothing_about_others() {
    let house = House::stranger().await;
    let refusals = [
        refused(house.fetch(&["a"], "").await).1,
        refused(house.fetch(&["a"], "spiffe://example.org/other").await).1,
        refused(house.bundles().await).1,
    ];
    for told in refusals {
        assert_eq!(told, "no identity issued");
    }
}

/// C21: a process in a pid namespace that the agent does not see gets nothing.
#[test]
fn c21_a_process_that_cannot_be_named_gets_nothing() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    // The agent is in a pid namespace of its own; the caller is outside of it.
    let mut agent = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(binary())
        .args(["run", "--config"])
        .arg(sandbox.config())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the socket", || sandbox.socket().exists().then_some(()));
    let output = as_user(0)
        .arg(binary())
        .args(["fetch-jwt", "--audience", "a", "--timeout", "1s"])
        .env("SPIFFE_ENDPOINT_SOCKET", sandbox.socket())
        .output()
        .unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(!output.status.success());
    assert!(!text(&output.stdout).contains("eyJ"));
}

/// C94: the calls of the WIT profile are Unimplemented.
#[tokio::test(flavor = "multi_thread")]
async fn c94_the_wit_profile_is_unimplemented() {
    let mut house = House::usual().await;
    let answers = all_calls(&mut house.client, &["true"]).await;
    assert!(
        answers[5..]
            .iter()
            .all(|(code, _)| *code == Code::Unimplemented),
        "{answers:?}"
    );
}

/// C95: so are those of the X.509 profile.
#[tokio::test(flavor = "multi_thread")]
async fn c95_the_x509_profile_is_unimplemented() {
    let mut house = House::usual().await;
    let answers = all_calls(&mut house.client, &["true"]).await;
    assert!(
        answers[3..5]
            .iter()
            .all(|(code, _)| *code == Code::Unimplemented),
        "{answers:?}"
    );
}

async fn eventually_connected(sandbox: &Sandbox) -> Client {
    // It is there a moment before anybody listens.
    eventually("the socket", || UnixStream::connect(sandbox.socket()).ok());
    connect(&sandbox.socket()).await.unwrap()
}

async fn eventually_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds().await {
        assert!(
            start.elapsed() < crate::common::DEADLINE,
            "not in time: {what}"
        );
    }
}

async fn channel(house: &House) -> tonic::transport::Channel {
    crate::load::channel(&house.sandbox.socket()).await.unwrap()
}

async fn reflect(house: &House, wanted: MessageRequest) -> Option<MessageResponse> {
    let mut client = ServerReflectionClient::new(channel(house).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(wanted),
    };
    let requests = tokio_stream::iter([request]);
    let mut replies = client
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    replies.message().await.unwrap().unwrap().message_response
}

async fn services(house: &House) -> Vec<String> {
    match reflect(house, MessageRequest::ListServices(String::new())).await {
        Some(MessageResponse::ListServicesResponse(list)) => list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect(),
        other => panic!("{other:?}"),
    }
}
