"""LangChain's standard integration tests, through its integrations for OpenAI and Anthropic.

They run in a virtual environment of their own; tests/process/test_langchain.py starts them. BASE_URL is the
URL of the gateway, and MODEL the model, for chats or for embeddings.
"""

import base64
import os
from typing import Any

import httpx
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

GATEWAY = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
MODEL = os.environ["MODEL"]
OTHER_MODEL = os.environ["OTHER_MODEL"]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def local_media(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests download pictures and documents from the web and only send them on."""
    monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(200, content=PIXEL))


class Chats(ChatModelIntegrationTests):
    @property
    def model_override_value(self) -> str:
        return OTHER_MODEL

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True


class TestChatOpenAI(Chats):
    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        where = {"model": MODEL, "base_url": f"{GATEWAY}/v1", "api_key": API_KEY}
        return {**where, "stream_usage": True, "use_responses_api": False}

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestChatOpenAIResponses(TestChatOpenAI):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


class TestChatAnthropic(Chats):
    @property
    def chat_model_class(self) -> type[ChatAnthropic]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": GATEWAY, "api_key": API_KEY, "max_tokens": 500}

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        where = {"model": MODEL, "base_url": f"{GATEWAY}/v1", "api_key": API_KEY}
        # Counting tokens on the client would download the table of a tokenizer.
        return {**where, "check_embedding_ctx_length": False}
