"""A real RTSP server on loopback, GStreamer's, as a program: ``/usr/bin/python3 rtsp_server.py PORT WIDTH HEIGHT``.

Debian: python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good. It runs in the
system's Python because that is where Debian puts GStreamer's bindings.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
port, width, height = sys.argv[1:]
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_shared(True)
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! "
    f"video/x-raw,format=I420,width={width},height={height},framerate=10/1 ! "
    "jpegenc quality=60 ! rtpjpegpay name=pay0 pt=26 )"
)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
