"""The tables of the network part, oldest script first (`db.migrate("network", SCRIPTS)`)."""

# network_addresses outlives its endpoint: with `endpoint` NULL the address is in quarantine until the kernel reports
# that the interface `link` is gone; `released` orders those by age.  A gateway's row has the link "" and the endpoint
# "gateway".
SCRIPTS: list[str] = [
    """
    CREATE TABLE networks (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        driver TEXT NOT NULL,
        created TEXT NOT NULL,
        document TEXT NOT NULL,
        cursor INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE network_endpoints (
        id TEXT PRIMARY KEY,
        network TEXT NOT NULL REFERENCES networks(id),
        container TEXT NOT NULL,
        generation INTEGER NOT NULL,
        document TEXT NOT NULL
    );
    CREATE INDEX network_endpoints_container ON network_endpoints(container);
    CREATE INDEX network_endpoints_network ON network_endpoints(network);
    CREATE TABLE network_addresses (
        network TEXT NOT NULL,
        address INTEGER NOT NULL,
        link TEXT NOT NULL,
        endpoint TEXT,
        released INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (network, address)
    ) WITHOUT ROWID;
    CREATE INDEX network_addresses_link ON network_addresses(link);
    CREATE TABLE network_ports (
        protocol TEXT NOT NULL,
        port INTEGER NOT NULL,
        host_ip TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        PRIMARY KEY (protocol, port, host_ip)
    ) WITHOUT ROWID;
    CREATE INDEX network_ports_endpoint ON network_ports(endpoint);
    """,
]
