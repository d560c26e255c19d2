"""The proxy people write themselves: FastAPI, a shared httpx client, StreamingResponse for streams."""

import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

app = FastAPI()
client = httpx.AsyncClient(
    base_url=os.environ["UPSTREAM"], timeout=600, limits=httpx.Limits(max_connections=None)
)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    call = await request.json()
    if call.get("stream"):
        return StreamingResponse(relay(call), media_type="text/event-stream")
    answer = await client.post("/chat/completions", json=call)
    return Response(answer.content, answer.status_code, media_type="application/json")


async def relay(call: dict[str, object]) -> AsyncIterator[bytes]:
    async with client.stream("POST", "/chat/completions", json=call) as answer:
        async for chunk in answer.aiter_bytes():
            yield chunk
