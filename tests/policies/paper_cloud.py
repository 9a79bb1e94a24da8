"""`python paper_cloud.py aws|ec|elasticstack`: a provider plugin behind which there is no cloud.

It judges inputs as the sandbox's provider does, leaves unknown at a preview what only the cloud would say,
and answers an update from the inputs alone. What a policy pack sees is what it sees before a real cloud.
"""

from __future__ import annotations

import sys
from typing import Any

from sandbox.provider import server, values
from sandbox.provider.protocol import provider_pb2

ACCOUNT, REGION = "111122223333", "eu-west-1"
_INVOKED = {
    "aws:index/getCallerIdentity:getCallerIdentity": {"accountId": ACCOUNT, "arn": "", "id": ACCOUNT, "userId": ""},
    "aws:index/getRegion:getRegion": {
        "region": REGION,
        "name": REGION,
        "id": REGION,
        "description": "",
        "endpoint": "",
    },
}


class PaperProvider(server.Provider):
    """The sandbox's provider without its clouds; a type that the sandbox does not serve is taken as it comes."""

    def Invoke(self, request: Any, context: Any) -> Any:
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").CopyFrom(values.encode(_INVOKED[request.tok]))
        return response

    def Check(self, request: Any, context: Any) -> Any:
        if self._is_served(request.urn):
            # The sandbox refuses what it has no use for; a policy has to see it.
            return provider_pb2.CheckResponse(inputs=super().Check(request, context).inputs)
        return provider_pb2.CheckResponse(inputs=request.news)

    def Create(self, request: Any, context: Any) -> Any:
        if request.preview and self._is_served(request.urn):
            return super().Create(request, context)
        inputs, _ = values.decode(request.properties)
        name = request.urn.rpartition("::")[2]
        stated = {key: value for key, value in inputs.items() if not key.startswith("__")}
        return provider_pb2.CreateResponse(
            id=str(inputs.get("bucket") or name) if not request.preview else "",
            properties=values.encode(stated | _made(server._token(request.urn), name, stated)),
        )

    def Update(self, request: Any, context: Any) -> Any:
        if request.preview:
            return super().Update(request, context)
        inputs, _ = values.decode(request.news)
        state, _ = values.decode(request.olds)
        name = request.urn.rpartition("::")[2]
        stated = {key: value for key, value in inputs.items() if not key.startswith("__")}
        made = _made(server._token(request.urn), name, stated)
        return provider_pb2.UpdateResponse(properties=values.encode(state | stated | made))

    def Delete(self, request: Any, context: Any) -> Any:
        return server.empty_pb2.Empty()

    def Diff(self, request: Any, context: Any) -> Any:
        return super().Diff(request, context) if self._is_served(request.urn) else provider_pb2.DiffResponse()

    def _is_served(self, urn: str) -> bool:
        return server._token(urn) in self._schema.resources


def _made(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the cloud would have said."""
    own, place = inputs.get("name", name), f"{REGION}:{ACCOUNT}"
    key = {"arn": f"arn:aws:kms:{place}:key/{name}", "keyId": name}
    queue = {"arn": f"arn:aws:sqs:{place}:{own}", "url": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{own}"}
    search = inputs.get("elasticsearch") or {}
    said: dict[str, dict[str, Any]] = {
        "Bucket": {"arn": f"arn:aws:s3:::{inputs.get('bucket')}"},
        "Key": key,
        "ExternalKey": key,
        "Queue": queue,
        "Role": {"arn": f"arn:aws:iam::{ACCOUNT}:role/{own}"},
        "Function": {"arn": f"arn:aws:lambda:{place}:function:{own}"},
        "EventSourceMapping": {"uuid": f"uuid-of-{name}"},
        "Deployment": {
            "elasticsearchUsername": "elastic",
            "elasticsearchPassword": "p",
            "elasticsearch": {**search, "httpsEndpoint": "http://127.0.0.1:9243"},
        },
        "SecurityApiKey": {"encoded": "encoded"},
    }
    return said.get(token.rpartition(":")[2], {})


if __name__ == "__main__":
    server.Provider = PaperProvider
    server.serve(sys.argv[1])
