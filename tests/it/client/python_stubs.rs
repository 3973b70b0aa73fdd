//! The contract in Python: stubs that grpcio-tools generates from the proto folder, with the real server.

use crate::support::{
    python::{python, run},
    world::{World, on_both_engines},
};

on_both_engines!(python_stubs_count_and_get_usage);

async fn python_stubs_count_and_get_usage(world: World) {
    let Some(python) = python("GRPC_PYTHON") else {
        return world.finish().await;
    };
    let address = world.endpoint().trim_start_matches("http://");
    let text = run(python, "grpc_client.py", &[address]).await;
    assert_eq!(text.trim(), "counted 1207 once");
    assert_eq!(world.usage_of("acct-python", "tokens").await.0, 1_207);
    world.finish().await;
}
