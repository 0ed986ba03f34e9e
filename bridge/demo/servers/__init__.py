"""Start and end the real servers that Isthmus talks to, as child processes on loopback.

Every server has a folder of its own under the system's temporary folder, ports of its own, keeps
its output in files, and is ended by process ID. None survives the process that started it.
"""

from bridge.demo.servers.authority import Certificate, CertificateAuthority
from bridge.demo.servers.ejabberd import Ejabberd, EjabberdPorts
from bridge.demo.servers.gateway import Isthmus
from bridge.demo.servers.ports import Listener, check_ports, free_port, free_ports, who_listens
from bridge.demo.servers.postgresql import PostgreSQL
from bridge.demo.servers.process import Child, Server, ServerFailed, living_children, run_to_end
from bridge.demo.servers.prosody import Prosody, ProsodyPorts
from bridge.demo.servers.relay import Relay
from bridge.demo.servers.synapse import Synapse, find_synapse_python

XmppServer = Prosody | Ejabberd

__all__ = [
    "Certificate",
    "CertificateAuthority",
    "Child",
    "Ejabberd",
    "EjabberdPorts",
    "Isthmus",
    "Listener",
    "PostgreSQL",
    "Prosody",
    "ProsodyPorts",
    "Relay",
    "Server",
    "ServerFailed",
    "Synapse",
    "XmppServer",
    "check_ports",
    "find_synapse_python",
    "free_port",
    "free_ports",
    "living_children",
    "run_to_end",
    "who_listens",
]
