//! What may be asked, and by whom.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Request, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    operator::{Change, Changed, Operator, Refusal, Reloaded},
    status::Status,
    token::Token,
};
use crate::config::WEIGHT_LIMIT;

/// Largest body, in bytes: a weight needs 16.
const BODY_LIMIT: usize = 4_096;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);

const RESOURCES: &str = "there are GET /status, POST /reload, and POST /services/{service}/backends/{backend}/weight (or drain, enable, disable)";

type Daemon = State<Arc<dyn Operator>>;
type Answer<T> = Result<Json<T>, Refusal>;
type Names = Result<Path<(String, String)>, PathRejection>;

/// Everything, for whoever may open the socket.
pub(super) fn all(operator: Arc<dyn Operator>) -> Router {
    let backend = |verb| format!("/services/{{service}}/backends/{{backend}}/{verb}");
    Router::new()
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route(&backend("weight"), post(weight))
        .route(&backend("drain"), post(drain))
        .route(&backend("enable"), post(enable))
        .route(&backend("disable"), post(disable))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(in_time))
        .with_state(operator)
}

/// Everything, but changes only for whoever has the token; for nobody if there is none.
pub(super) fn guarded(operator: Arc<dyn Operator>, token: Option<Token>) -> Router {
    let token = Arc::new(token);
    all(operator).layer(middleware::from_fn(move |request, next| {
        let token = Arc::clone(&token);
        async move { guard(token.as_ref().as_ref(), request, next).await }
    }))
}

async fn guard(token: Option<&Token>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let Some(token) = token else {
        return line(
            StatusCode::FORBIDDEN,
            "the TCP API is read-only; set forwarder.api_token_file to allow changes, or use the Unix socket",
        );
    };
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| bearer(value.as_bytes()));
    if presented.is_some_and(|presented| token.is(presented)) {
        return next.run(request).await;
    }
    let refusal = line(
        StatusCode::UNAUTHORIZED,
        "changes need the header `Authorization: Bearer TOKEN` with the token of forwarder.api_token_file",
    );
    ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
}

/// The token in an Authorization header (RFC 6750 section 2.1); the scheme's case does not count.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let space = value.iter().position(|&b| b == b' ')?;
    value[..space]
        .eq_ignore_ascii_case(b"Bearer")
        .then(|| value[space..].trim_ascii())
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => line(
            StatusCode::GATEWAY_TIMEOUT,
            &format!(
                "no answer within {} s; a change may still come into force, see `sip-forwarder status`",
                ANSWER.as_secs()
            ),
        ),
    }
}

async fn status(State(daemon): Daemon) -> Answer<Status> {
    daemon.status().await.map(Json)
}

async fn reload(State(daemon): Daemon) -> Answer<Reloaded> {
    daemon.reload().await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    weight: i64,
}

async fn weight(
    daemon: Daemon,
    names: Names,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Changed>, Response> {
    let body = body.map_err(|rejection| {
        line(
            rejection.status(),
            &format!("cannot read the body ({rejection}); {}", wanted_body()),
        )
    })?;
    let weight = weight_of(&body).map_err(IntoResponse::into_response)?;
    change(daemon, names, Change::Weight(weight))
        .await
        .map_err(IntoResponse::into_response)
}

fn weight_of(body: &[u8]) -> Result<u16, Refusal> {
    let Weight { weight } = serde_json::from_slice(body).map_err(|error| {
        Refusal::Invalid(format!("the body is not right: {error}; {}", wanted_body()))
    })?;
    u16::try_from(weight)
        .ok()
        .filter(|weight| (1..=WEIGHT_LIMIT).contains(weight))
        .ok_or_else(|| {
            Refusal::Invalid(format!(
                "weight {weight} is not allowed; give 1 to {WEIGHT_LIMIT}, or drain the backend"
            ))
        })
}

fn wanted_body() -> String {
    format!("send {{\"weight\": N}} with N from 1 to {WEIGHT_LIMIT}")
}

async fn drain(daemon: Daemon, names: Names) -> Answer<Changed> {
    change(daemon, names, Change::Drain).await
}

async fn enable(daemon: Daemon, names: Names) -> Answer<Changed> {
    change(daemon, names, Change::Enable).await
}

async fn disable(daemon: Daemon, names: Names) -> Answer<Changed> {
    change(daemon, names, Change::Disable).await
}

async fn change(State(daemon): Daemon, names: Names, change: Change) -> Answer<Changed> {
    let Path((service, backend)) = names.map_err(|rejection| {
        Refusal::Invalid(format!(
            "cannot read the names in the path: {rejection}; {RESOURCES}"
        ))
    })?;
    daemon.change(&service, &backend, change).await.map(Json)
}

async fn unknown(uri: Uri) -> Response {
    let what = format!("there is no {}; {RESOURCES}", uri.path());
    line(StatusCode::NOT_FOUND, &what)
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let what = format!("{} does not take {method}; {RESOURCES}", uri.path());
    line(StatusCode::METHOD_NOT_ALLOWED, &what)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        line(code, &self.to_string())
    }
}

/// A refusal is one line of text.
fn line(code: StatusCode, text: &str) -> Response {
    (code, text.replace('\n', " ") + "\n").into_response()
}
