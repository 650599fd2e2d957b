//! Every address that is answered, and how a request becomes a call.
//!
//! [`TABLE`]'s rows and `openapi.json` say the same; a test compares them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ccbt_protocol::ids::InfoHash;
use crossbeam_channel::Sender;
use http_body_util::LengthLimitError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Streaming;
use crate::Scraped;
use crate::daemon::api::{self, ApiError};
use crate::daemon::core::{Answer, Message, NewTorrent, Request as Call};

/// The description of the interface.
pub(super) const OPENAPI: &str = include_str!("openapi.json");
/// Bytes of a body at most.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a torrent file that is added, and of its body. Larger ones come from files: `daemon --add`, the watch folder.
const TORRENT_BYTES_MAX: usize = 64 << 20;
const ADD_BYTES_MAX: usize = TORRENT_BYTES_MAX / 3 * 4 + BODY_BYTES_MAX;
/// Bodies with torrent files in memory at a time.
const ADDS_MAX: usize = 2;
/// So long an answer is waited for: a torrent that is removed says goodbye to its trackers.
const PATIENCE: Duration = Duration::from_secs(50);
/// So long trackers are waited for: what has not come by then is told as missing.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(40);

/// So long a shard is waited for.
const SHARD_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct App {
    tell: Sender<Message>,
    adds: Arc<Semaphore>,
}

type Answered = Result<Response, ApiError>;

/// Methods, paths and what answers.
fn table() -> Vec<(&'static str, &'static str, MethodRouter<App>)> {
    vec![
        ("get", "/openapi.json", get(openapi)),
        ("get", "/v1/stats", get(stats)),
        ("get", "/v1/engine", get(engine)),
        ("patch", "/v1/limits", patch(limits)),
        ("post", "/v1/ip-filter/reload", post(reload_filter)),
        ("get", "/v1/events", get(events)),
        ("get", "/v1/torrents", get(list)),
        ("post", "/v1/torrents", post(add)),
        ("get", "/v1/torrents/{id}", get(show)),
        ("patch", "/v1/torrents/{id}", patch(change)),
        ("delete", "/v1/torrents/{id}", delete(remove)),
        ("post", "/v1/torrents/{id}/pause", post(pause)),
        ("post", "/v1/torrents/{id}/resume", post(resume)),
        ("post", "/v1/torrents/{id}/recheck", post(recheck)),
        ("post", "/v1/torrents/{id}/move", post(move_files)),
        ("post", "/v1/torrents/{id}/queue", post(step)),
        ("post", "/v1/torrents/{id}/peers", post(peers)),
        ("get", "/v1/torrents/{id}/scrape", get(scrape)),
        ("get", "/v1/torrents/{id}/explain", get(explain)),
        ("get", "/v1/torrents/{id}/trace", get(trace)),
        ("get", "/v1/torrents/{id}/pieces", get(pieces)),
        ("get", "/v1/torrents/{id}/trackers", get(trackers)),
    ]
}

/// Answers by asking the daemon's thread over `tell`.
pub(super) fn router(tell: Sender<Message>) -> Router {
    let routes = table().into_iter().fold(Router::new(), |router, (_, path, how)| router.route(path, how));
    routes
        .fallback(async || ApiError::new(404, "no_such_path", "GET /openapi.json lists all paths"))
        .method_not_allowed_fallback(async || {
            ApiError::new(405, "wrong_method", "GET /openapi.json lists the methods of each path")
        })
        .with_state(App { tell, adds: Arc::new(Semaphore::new(ADDS_MAX)) })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self);
        if status == StatusCode::UNAUTHORIZED {
            let value = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("no map has keys other than strings");
    typed(status, "application/json", Body::from(text + "\n"))
}

fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}

/// A body of JSON of so many bytes at most; errors name the field.
struct Json<T, const BYTES_MAX: usize = BODY_BYTES_MAX>(T);

impl<T: DeserializeOwned, const BYTES_MAX: usize> FromRequest<App> for Json<T, BYTES_MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &App) -> Result<Self, ApiError> {
        let too_large = || {
            ApiError::new(
                413,
                "too_large",
                format!("the body has more than the {BYTES_MAX} bytes that are taken"),
            )
        };
        // One that says so itself is not waited for.
        if request.body().size_hint().lower() > BYTES_MAX as u64 {
            return Err(too_large());
        }
        let body =
            to_bytes(request.into_body(), BYTES_MAX).await.map_err(
                |error| match std::error::Error::source(&error)
                    .is_some_and(|source| source.is::<LengthLimitError>())
                {
                    true => too_large(),
                    false => ApiError::new(400, "bad_body", format!("the body: {error}")),
                },
            )?;
        let parsed = serde_json::from_slice(&body);
        parsed.map(Self).map_err(|error| ApiError::new(400, "bad_json", format!("the body: {error}")))
    }
}

/// Room for a body with a torrent file.
struct AddRoom(#[expect(dead_code, reason = "held until the body is gone")] OwnedSemaphorePermit);

impl FromRequestParts<App> for AddRoom {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let room = Arc::clone(&app.adds).acquire_owned().await;
        room.map(Self).map_err(|_| ApiError::new(503, "stopping", "the daemon is stopping"))
    }
}

impl App {
    async fn call(&self, request: Call) -> Result<Answer, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.tell
            .try_send(Message::Call(request, reply))
            .map_err(|_| ApiError::new(503, "busy", "the daemon is busy or stopping; try again"))?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ApiError::new(503, "stopping", "the daemon is stopping")),
            Err(_) => Err(ApiError::new(504, "slow", "it is not done yet and goes on")),
        }
    }

    async fn answer(&self, status: StatusCode, request: Call) -> Answered {
        Ok(match self.call(request).await? {
            Answer::List(rows) => json(status, &List { torrents: rows }),
            Answer::Torrent(row) => json(status, &row),
            Answer::Detail(detail) => json(status, &detail),
            Answer::Removed(removed) => json(status, &removed),
            Answer::Stats(stats) => json(status, &stats),
            Answer::Limits { down, up } => json(status, &LimitsNow { down_limit: down, up_limit: up }),
            Answer::Filter(filter) => json(status, &filter),
            Answer::Scrapes(hash, asked) => json(status, &scrapes(hash, asked).await?),
            Answer::Explain(explaining) => {
                let done = tokio::task::spawn_blocking(move || explaining.complete()).await;
                let gone = |_| ApiError::new(503, "stopping", "the daemon is stopping");
                json(status, &done.map_err(gone)??)
            }
            Answer::Pieces(hash, cells, answer) => {
                let pieces = told(answer).await?;
                json(status, &api::Pieces::new(hash, cells, &pieces.have, pieces.checked))
            }
            Answer::Trackers(hash, answer) => json(status, &api::Trackers::new(hash, told(answer).await?)),
            Answer::Engine(engine) => json(status, &engine),
            Answer::Events(lines) => typed(status, "application/x-ndjson", Body::from_stream(Lines(lines))),
        })
    }
}

#[derive(Serialize)]
struct List {
    torrents: Vec<api::Torrent>,
}

#[derive(Serialize)]
struct LimitsNow {
    down_limit: u64,
    up_limit: u64,
}

/// Lines of events as a body.
struct Lines(mpsc::Receiver<String>);

impl futures_core::Stream for Lines {
    type Item = Result<String, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|line| line.map(Ok))
    }
}

async fn openapi() -> Response {
    typed(StatusCode::OK, "application/json", Body::from(OPENAPI))
}

async fn stats(State(app): State<App>) -> Answered {
    app.answer(StatusCode::OK, Call::Stats).await
}

async fn engine(State(app): State<App>) -> Answered {
    app.answer(StatusCode::OK, Call::Engine).await
}

async fn limits(State(app): State<App>, Json(change): Json<api::LimitChange>) -> Answered {
    app.answer(StatusCode::OK, Call::Limits(change)).await
}

async fn reload_filter(State(app): State<App>) -> Answered {
    app.answer(StatusCode::OK, Call::ReloadFilter).await
}

async fn events(State(app): State<App>, Extension(streams): Extension<Arc<AtomicUsize>>) -> Answered {
    app.answer(StatusCode::OK, Call::Subscribe(Streaming::begin(&streams))).await
}

async fn list(State(app): State<App>) -> Answered {
    app.answer(StatusCode::OK, Call::List).await
}

async fn add(
    State(app): State<App>,
    _room: AddRoom,
    Json(mut how): Json<api::Add, ADD_BYTES_MAX>,
) -> Answered {
    let bytes = STANDARD.decode(std::mem::take(&mut how.torrent));
    let bytes = bytes.map_err(|error| ApiError::new(400, "bad_base64", format!("torrent: {error}")))?;
    app.answer(StatusCode::CREATED, Call::Add(Box::new(NewTorrent { bytes, how }))).await
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Answered {
    app.answer(StatusCode::OK, Call::Show(id)).await
}

async fn change(State(app): State<App>, Path(id): Path<String>, Json(change): Json<api::Change>) -> Answered {
    app.answer(StatusCode::OK, Call::Change(id, change)).await
}

async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<api::Remove>, QueryRejection>,
) -> Answered {
    let Query(how) = query.map_err(|rejection| ApiError::new(400, "bad_query", rejection.body_text()))?;
    app.answer(StatusCode::OK, Call::Remove(id, how)).await
}

async fn pause(State(app): State<App>, Path(id): Path<String>) -> Answered {
    app.answer(StatusCode::OK, Call::Pause(id)).await
}

async fn resume(State(app): State<App>, Path(id): Path<String>) -> Answered {
    app.answer(StatusCode::OK, Call::Resume(id)).await
}

async fn recheck(State(app): State<App>, Path(id): Path<String>) -> Answered {
    app.answer(StatusCode::OK, Call::Recheck(id)).await
}

async fn move_files(State(app): State<App>, Path(id): Path<String>, Json(how): Json<api::Move>) -> Answered {
    app.answer(StatusCode::ACCEPTED, Call::Move(id, how)).await
}

async fn step(State(app): State<App>, Path(id): Path<String>, Json(step): Json<api::QueueStep>) -> Answered {
    app.answer(StatusCode::OK, Call::Queue(id, step)).await
}

async fn peers(State(app): State<App>, Path(id): Path<String>, Json(peers): Json<api::Peers>) -> Answered {
    app.answer(StatusCode::OK, Call::Peers(id, peers)).await
}

async fn scrape(State(app): State<App>, Path(id): Path<String>) -> Answered {
    app.answer(StatusCode::OK, Call::Scrape(id)).await
}

async fn explain(State(app): State<App>, Path(id): Path<String>) -> Answered {
    app.answer(StatusCode::OK, Call::Explain(id)).await
}

async fn trace(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<api::Trace>, QueryRejection>,
    Extension(streams): Extension<Arc<AtomicUsize>>,
) -> Answered {
    let Query(how) = query.map_err(|rejection| ApiError::new(400, "bad_query", rejection.body_text()))?;
    app.answer(StatusCode::OK, Call::Trace(id, how, Streaming::begin(&streams))).await
}

async fn pieces(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<api::Cells>, QueryRejection>,
) -> Answered {
    let Query(cells) = query.map_err(|rejection| ApiError::new(400, "bad_query", rejection.body_text()))?;
    app.answer(StatusCode::OK, Call::Pieces(id, cells)).await
}

async fn trackers(State(app): State<App>, Path(id): Path<String>) -> Answered {
    app.answer(StatusCode::OK, Call::Trackers(id)).await
}

/// Waits for a shard's answer.
async fn told<T: Send + 'static>(answer: crossbeam_channel::Receiver<T>) -> Result<T, ApiError> {
    let wait = tokio::task::spawn_blocking(move || answer.recv_timeout(SHARD_PATIENCE)).await;
    match wait {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(crossbeam_channel::RecvTimeoutError::Timeout)) => Err(ApiError::new(
            504,
            "slow",
            "the torrent's shard has not answered; `events` and the log may say why",
        )),
        _ => Err(ApiError::new(409, "gone", "the torrent has just left, or the daemon is stopping")),
    }
}

/// Waits for trackers' answers: at most one wait for each connection of a client.
async fn scrapes(
    hash: InfoHash,
    asked: Vec<(String, crossbeam_channel::Receiver<Scraped>)>,
) -> Result<api::Scrapes, ApiError> {
    let until = Instant::now() + SCRAPE_PATIENCE;
    let wait = move |(url, answer): (String, crossbeam_channel::Receiver<Scraped>)| {
        scraped(url, answer.recv_deadline(until))
    };
    let trackers = tokio::task::spawn_blocking(move || asked.into_iter().map(wait).collect()).await;
    let trackers = trackers.map_err(|_| ApiError::new(503, "stopping", "the daemon is stopping"))?;
    Ok(api::Scrapes { info_hash: hash.to_string(), trackers })
}

fn scraped(url: String, answer: Result<Scraped, crossbeam_channel::RecvTimeoutError>) -> api::Scrape {
    let (entry, error) = match answer {
        Ok(Ok(entries)) => (entries.first().copied().flatten(), None),
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(_) => (None, Some("the tracker has not answered yet".to_owned())),
    };
    api::Scrape {
        url,
        seeders: entry.map(|entry| entry.seeders),
        leechers: entry.map(|entry| entry.leechers),
        completed: entry.map(|entry| entry.completed),
        error,
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
